//! Where the second subject is in the second panel: boxes from an endpoint, or given in a file.

use std::collections::BTreeMap;
use std::path::Path;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::endpoint::{Endpoint, Part};
use crate::error::{Error, Result};
use crate::text_file;

/// Largest file of boxes that is read: those of a million items.
const MAX_BOXES_BYTES: u64 = 256 << 20;

/// A box in pixels: left, top, right, bottom; the last two are just outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area(pub [u32; 4]);

impl Area {
    /// Whether it lies in a picture and covers enough of it, and not all.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn check(self, width: u32, height: u32) -> Result<Self, String> {
        let [left, top, right, bottom] = self.0;
        if left >= right || top >= bottom || right > width || bottom > height {
            return Err(format!("is {:?}, no box in {width}x{height} pixels", self.0));
        }
        Ok(self)
    }

    /// Its share of a picture's pixels.
    pub fn share(self, width: u32, height: u32) -> f64 {
        let [left, top, right, bottom] = self.0.map(f64::from);
        (right - left) * (bottom - top) / (f64::from(width) * f64::from(height)).max(1.0)
    }

    /// With room around it, `margin` of its width and height on each side, as far as a picture reaches.
    pub fn with_margin(self, margin: f64, width: u32, height: u32) -> Self {
        let [left, top, right, bottom] = self.0;
        let [x, y] = [right.saturating_sub(left), bottom.saturating_sub(top)]
            .map(|length| (margin * f64::from(length)).round() as u32);
        Self([
            left.saturating_sub(x),
            top.saturating_sub(y),
            right.saturating_add(x).min(width),
            bottom.saturating_add(y).min(height),
        ])
    }

    /// The pixels in it.
    pub fn cut(self, picture: &RgbImage) -> RgbImage {
        let [left, top, right, bottom] = self.0;
        image::imageops::crop_imm(picture, left, top, right.saturating_sub(left), bottom.saturating_sub(top))
            .to_image()
    }
}

/// Asks an endpoint for the box of `subject`; `None` if it says that it is not there.
///
/// # Errors
///
/// What the endpoint returns.
pub(super) fn ask(endpoint: &Endpoint, subject: &str, picture: &RgbImage) -> Result<Option<Area>> {
    let (width, height) = picture.dimensions();
    let question = format!(
        "The picture has {width}x{height} pixels. Where in it is {subject}? Give the smallest box around all of it as [left, top, \
         right, bottom] in pixels from the upper left corner, or null if it is not there. Answer as JSON."
    );
    let whole = json!({ "type": "integer", "minimum": 0 });
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["box"],
        "properties": { "box": { "anyOf": [
            { "type": "null" }, { "type": "array", "items": whole, "minItems": 4, "maxItems": 4 },
        ] } },
    });
    endpoint.ask(&[Part::Text(&question), Part::Picture(picture)], ("box", &schema), |value| {
        read(value)?.map(|area| area.check(width, height)).transpose()
    })
}

fn read(value: Value) -> Result<Option<Area>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Answer {
        // A missing box is no answer, unlike one that is null.
        #[serde(rename = "box", deserialize_with = "Option::deserialize")]
        area: Option<Area>,
    }
    let Answer { area } =
        serde_json::from_value(value).map_err(|e| format!("is not of the form asked for ({e})"))?;
    Ok(area)
}

/// Boxes by the items' numbers, from a JSON file: `{"000012": [left, top, right, bottom] or null}`.
///
/// # Errors
///
/// A file that cannot be read or holds something else.
pub(super) fn read_boxes(path: &Path) -> Result<BTreeMap<String, Option<Area>>> {
    let text = text_file::read(path, MAX_BOXES_BYTES, "boxes")?;
    serde_json::from_str(&text).map_err(|e| {
        Error::format(
            path,
            format!(r#"holds no boxes: {e}; wanted {{"000012": [left, top, right, bottom]}}"#),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_taken_only_where_they_lie_in_the_picture() {
        assert_eq!(read(json!({ "box": null })), Ok(None));
        let area = read(json!({ "box": [1, 2, 30, 40] })).unwrap().unwrap();
        assert_eq!(area.check(30, 40), Ok(area));
        assert!((area.share(30, 40) - 29.0 * 38.0 / 1200.0).abs() < 1e-12);
        assert_eq!(area.cut(&RgbImage::new(30, 40)).dimensions(), (29, 38));
        assert_eq!(Area([10, 10, 20, 30]).with_margin(0.25, 40, 32), Area([7, 5, 23, 32]));
        assert_eq!(area.with_margin(0.0, 30, 40), area);
        for wrong in [[1, 2, 31, 40], [1, 2, 30, 41], [5, 2, 5, 40], [1, 40, 30, 40]] {
            assert!(Area(wrong).check(30, 40).is_err(), "{wrong:?}");
        }
        for wrong in
            [json!({}), json!({ "box": [1, 2, 3] }), json!({ "box": [-1, 2, 3, 4] }), json!({ "box": "x" })]
        {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
