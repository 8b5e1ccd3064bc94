//! An evaluation as a page: tables, and every picture beside its references, those that lost a subject first. One file, which
//! needs no other.

use std::fmt::Write;
use std::path::Path;

use super::evaluation::{Means, PromptReport, Report};
use super::scores::PictureScores;
use super::statistics::Mean;
use crate::error::{Error, Result};
use crate::output::write_atomically;
use crate::page::{STYLE, escaped, thumbnail};

/// What the page begins with; by it an earlier one is known.
pub(super) const HEAD: &str =
    "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Evaluation</title>";

impl Report {
    /// Writes the page, in place of an earlier one if there is one. References and pictures are read again, one by one.
    ///
    /// # Errors
    ///
    /// [`check_replaceable`](Self::check_replaceable); pictures that cannot be read any more; a folder that cannot be written to.
    pub fn write_html(&self, path: &Path) -> Result<()> {
        Self::check_replaceable(path)?;
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
            "{HEAD}<style>{STYLE}</style></head>\
             <body><h1>Evaluation</h1><p>{} prompts, {} pictures each. Means with 95% intervals, by bootstrap over prompts.</p>",
            self.prompts, self.per_prompt
        );
        for note in &self.notes {
            let _ = write!(page, "<p>Note: {}.</p>", escaped(note));
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
