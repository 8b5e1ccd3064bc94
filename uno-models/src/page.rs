//! Pages for people: one file of HTML with the pictures inside.

use std::path::Path;

use base64::Engine;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;

use crate::error::{Error, Result};
use crate::picture::{DecodeOptions, Picture};

/// Longer side of pictures on the page.
const SIDE: u32 = 192;
const QUALITY: u8 = 82;

pub(crate) const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c1c1e}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}\
td:first-child,th:first-child{text-align:left}.interval{color:#777;font-size:85%}section{border-top:1px solid #ddd;padding:.8rem 0}\
figure{display:inline-block;margin:0 .8rem .4rem 0;vertical-align:top}figcaption{font-size:80%;color:#555}img{max-width:192px;\
max-height:192px;border-radius:4px;display:block}.reference img{max-width:96px;max-height:96px;opacity:.9}pre{overflow:auto;\
background:#f6f6f6;padding:1rem}";

/// A picture inside the page, made smaller.
pub(crate) fn thumbnail(path: &Path) -> Result<String> {
    let picture = Picture::open(path, &DecodeOptions::default())?;
    let (width, height) = picture.size();
    let pixels = if width.max(height) > SIDE {
        picture.pixels().resize(SIDE, SIDE, FilterType::CatmullRom)
    } else {
        picture.pixels().clone()
    };
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .encode_image(&pixels.to_rgb8())
        .map_err(|e| Error::picture(path.display().to_string(), e.to_string()))?;
    let data = base64::engine::general_purpose::STANDARD.encode(jpeg);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(format!("<img alt=\"{}\" src=\"data:image/jpeg;base64,{data}\">", escaped(&name)))
}

/// Text that a page shows as it is.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escaped(r#"<img src=x onerror="a">&"#), "&lt;img src=x onerror=&quot;a&quot;&gt;&amp;");
    }
}
