//! An evaluation as a page: tables, and every picture beside its references, those that lost a subject first. One file, which
//! needs no other.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;

use super::evaluation::{Means, PromptReport, Report};
use super::scores::PictureScores;
use super::statistics::Mean;
use crate::error::{Error, Result};
use crate::output::write_atomically;
use crate::picture::{DecodeOptions, Picture};

/// Longer side of pictures on the page.
const SIDE: u32 = 192;
const QUALITY: u8 = 82;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c1c1e}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}\
td:first-child,th:first-child{text-align:left}.interval{color:#777;font-size:85%}section{border-top:1px solid #ddd;padding:.8rem 0}\
figure{display:inline-block;margin:0 .8rem .4rem 0;vertical-align:top}figcaption{font-size:80%;color:#555}img{max-width:192px;\
max-height:192px;border-radius:4px;display:block}.reference img{max-width:96px;max-height:96px;opacity:.9}pre{overflow:auto;\
background:#f6f6f6;padding:1rem}";

impl Report {
    /// Writes the page. References and pictures are read again, one by one.
    ///
    /// # Errors
    ///
    /// Pictures that cannot be read any more; a folder that cannot be written to.
    pub fn write_html(&self, path: &Path) -> Result<()> {
        let mut page = self.head()?;
        let mut order: Vec<usize> = (0..self.by_prompt.len()).collect();
        let least = |i: usize| self.by_prompt[i].means.subject.map_or(f64::INFINITY, |mean| mean.mean);
        order.sort_by(|&a, &b| least(a).total_cmp(&least(b)));
        for i in order {
            section(&mut page, i, &self.by_prompt[i])?;
        }
        page.push_str("</body></html>\n");
        write_atomically(path, |file| file.write_all(page.as_bytes()))
    }

    fn head(&self) -> Result<String> {
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Evaluation</title><style>{STYLE}</style></head>\
             <body><h1>Evaluation</h1><p>{} prompts, {} pictures each. Means with 95% intervals, by bootstrap over prompts.</p>",
            self.prompts, self.per_prompt
        );
        if self.cut_prompts > 0 {
            let _ = write!(page, "<p>CLIP saw {} prompts cut.</p>", self.cut_prompts);
        }
        page.push_str(&table(std::iter::once(("all", &self.all))));
        if self.by_subject.len() > 1 {
            page.push_str("<h2>Subjects</h2>");
            page.push_str(&table(self.by_subject.iter().map(|(name, means)| (name.as_str(), means))));
        }
        let pinned =
            serde_json::json!({ "protocol": self.protocol, "made": self.made, "software": self.software });
        let pinned = serde_json::to_string_pretty(&pinned)
            .map_err(|e| Error::request("report", e, "numbers that JSON can hold"))?;
        let _ = write!(
            page,
            "<details><summary>Protocol</summary><pre>{}</pre></details><h2>Prompts</h2><p>Those whose subjects are found \
             least come first. The subject score is the least over subjects of DINO on the cut-out that is most like it.</p>",
            escaped(&pinned)
        );
        Ok(page)
    }
}

fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a Means)>) -> String {
    let mut table =
        String::from("<table><tr><th></th><th>DINO</th><th>CLIP-I</th><th>CLIP-T</th><th>subject</th></tr>");
    for (name, means) in rows {
        let cells = [means.dino, means.clip_i, means.clip_t, means.subject].map(|mean| match mean {
            Some(Mean { mean, low, high, .. }) => {
                format!("<td>{mean:.3} <span class=\"interval\">{low:.3}–{high:.3}</span></td>")
            }
            None => "<td>–</td>".into(),
        });
        let _ = write!(table, "<tr><td>{}</td>{}</tr>", escaped(name), cells.concat());
    }
    table + "</table>"
}

fn section(page: &mut String, i: usize, prompt: &PromptReport) -> Result<()> {
    let _ = write!(page, "<section><p><b>{i}</b> {}</p>", escaped(&prompt.prompt));
    for reference in &prompt.references {
        let _ = write!(page, "<figure class=\"reference\">{}</figure>", thumbnail(reference)?);
    }
    for (path, scores) in &prompt.pictures {
        let _ =
            write!(page, "<figure>{}<figcaption>{}</figcaption></figure>", thumbnail(path)?, caption(scores));
    }
    page.push_str("</section>");
    Ok(())
}

fn caption(scores: &PictureScores) -> String {
    let number = |name: &str, value: Option<f64>| value.map(|value| format!("{name} {value:.3}"));
    let parts = [
        number("DINO", scores.dino),
        number("CLIP-I", scores.clip_i),
        number("CLIP-T", Some(scores.clip_t)),
        number("subject", scores.subject),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("<br>")
}

/// A picture inside the page, made smaller.
fn thumbnail(path: &Path) -> Result<String> {
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
fn escaped(text: &str) -> String {
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
