//! What a synthesis leaves: data in UNO-1M's layout and as plain lists, and a report of what was kept and what was not.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::item::{Item, Stage, Status};
use super::work::Synthesis;
use crate::error::Result;
use crate::output::write_atomically;
use crate::page::{STYLE, escaped, thumbnail};

/// Examples of each kind on the report.
const EXAMPLES: usize = 6;

/// How many items came how far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Funnel {
    /// Items in all.
    pub items: usize,
    /// By stage, in order.
    pub stages: Vec<StageCount>,
    /// Items that all stages kept.
    pub done: usize,
}

/// A stage in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageCount {
    /// Which.
    pub stage: Stage,
    /// Items that wait for it.
    pub waiting: usize,
    /// Items that it kept.
    pub kept: usize,
    /// Items that it rejected, by reason.
    pub rejected: BTreeMap<String, usize>,
}

/// Files of results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// How many items came how far.
    pub funnel: Funnel,
    /// Pairs with one reference: a plain list.
    pub one_reference: PathBuf,
    /// Samples with two references: a plain list; none without the second half of the stages.
    pub two_references: Option<PathBuf>,
    /// The pairs as UNO-1M's labels; none where no model judged them.
    pub uno_1m: Option<PathBuf>,
    /// The report.
    pub report: PathBuf,
}

impl Synthesis {
    /// How many items came how far.
    ///
    /// # Errors
    ///
    /// Items that are damaged.
    pub fn funnel(&self) -> Result<Funnel> {
        Ok(self.funnel_of(&self.items()?))
    }

    fn funnel_of(&self, items: &[Item]) -> Funnel {
        let asked = self.config().stages();
        let count = |stage: Stage| StageCount { stage, waiting: 0, kept: 0, rejected: BTreeMap::new() };
        let mut funnel =
            Funnel { items: items.len(), stages: asked.iter().map(|&stage| count(stage)).collect(), done: 0 };
        for item in items {
            let status = item.status(&asked);
            let ended = match &status {
                Status::Waits(stage) | Status::Rejected(stage, _) => Some(*stage),
                Status::Done => None,
            };
            for count in &mut funnel.stages {
                if Some(count.stage) != ended {
                    count.kept += 1;
                    continue;
                }
                match status {
                    Status::Rejected(_, reason) => *count.rejected.entry(reason).or_default() += 1,
                    _ => count.waiting += 1,
                }
                break;
            }
            funnel.done += usize::from(ended.is_none());
        }
        funnel
    }

    /// Writes data and report of what is through by now. The same items give the same bytes.
    ///
    /// # Errors
    ///
    /// Items or pictures that are damaged or gone; a folder that cannot be written to.
    pub fn write_results(&self) -> Result<Results> {
        let items = self.items()?;
        let asked = self.config().stages();
        let first: Vec<Stage> = asked.iter().copied().filter(|stage| Stage::FIRST.contains(stage)).collect();
        let (mut one, mut two, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        let template = &self.config().diptych.template;
        for item in &items {
            if item.status(&first) != Status::Done {
                continue;
            }
            let Some(panels) = item.split.as_ref().and_then(|split| split.value.as_ref()) else { continue };
            let names = [1, 2].map(|n| format!("split1/{}_{n}.png", item.id));
            for (name, file) in names.iter().zip(&panels.files) {
                self.copy(file, &format!("images/{name}"))?;
            }
            let files = names.each_ref().map(|name| format!("images/{name}"));
            let prompt = item.plan.second_caption(template);
            one.push(json!({
                "prompt": prompt, "image_paths": [files[0]], "image_tgt_path": files[1],
            }));
            labels.extend(label(item, &names, &prompt));
            let made = item.regeneration.as_ref().and_then(|made| made.value.as_ref());
            if let (Status::Done, Some(made)) = (item.status(&asked), made) {
                let second = format!("images/split1/{}_3.png", item.id);
                self.copy(made, &second)?;
                two.push(json!({
                    "prompt": prompt, "image_paths": [files[0], second], "image_tgt_path": files[1],
                }));
            }
        }
        let write = |name: &str, list: &Vec<Value>| -> Result<PathBuf> {
            let path = self.path(name);
            write_atomically(&path, |file| Ok(serde_json::to_writer_pretty(file, list)?))?;
            Ok(path)
        };
        let is_judged = asked.contains(&Stage::Judgement);
        let funnel = self.funnel_of(&items);
        let report = self.path("report.html");
        let page = self.page(&items, &funnel)?;
        write_atomically(&report, |file| file.write_all(page.as_bytes()))?;
        Ok(Results {
            funnel,
            one_reference: write("one_reference.json", &one)?,
            two_references: match asked.contains(&Stage::Regeneration) {
                true => Some(write("two_references.json", &two)?),
                false => None,
            },
            uno_1m: match is_judged {
                true => {
                    write("labels/split1.json", &labels)?;
                    Some(write("uno_1m_total_labels.json", &labels)?)
                }
                false => None,
            },
            report,
        })
    }

    fn copy(&self, from: &std::path::Path, to: &str) -> Result<()> {
        let from = self.path(from);
        let bytes = std::fs::read(&from).map_err(crate::Error::read(&from))?;
        write_atomically(&self.path(to), |file| file.write_all(&bytes))
    }

    fn page(&self, items: &[Item], funnel: &Funnel) -> Result<String> {
        let asked = self.config().stages();
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Synthesis</title><style>{STYLE}</style></head><body>\
             <h1>Synthesis</h1><p>{} diptychs, {} through all stages.</p><table><tr><th>stage</th><th>waiting</th><th>rejected</th>\
             <th>kept</th><th>of those before</th></tr>",
            funnel.items, funnel.done
        );
        for count in &funnel.stages {
            let rejected: usize = count.rejected.values().sum();
            let before = count.waiting + rejected + count.kept;
            let share = 100.0 * count.kept as f64 / before.max(1) as f64;
            let _ = write!(
                page,
                "<tr><td>{}</td><td>{}</td><td>{rejected}</td><td>{}</td><td>{share:.0}%</td></tr>",
                count.stage.name(),
                count.waiting,
                count.kept
            );
        }
        page.push_str("</table>");
        for (title, which) in
            [("Kept", None)].into_iter().chain(asked.iter().map(|&stage| ("Rejected by", Some(stage))))
        {
            let is_one = |item: &&Item| match (item.status(&asked), which) {
                (Status::Done, None) => true,
                (Status::Rejected(stage, _), Some(which)) => stage == which,
                _ => false,
            };
            let examples: Vec<&Item> = items.iter().filter(is_one).take(EXAMPLES).collect();
            if examples.is_empty() {
                continue;
            }
            let _ = write!(page, "<h2>{title} {}</h2>", which.map_or("by all stages", Stage::name));
            for item in examples {
                self.example(&mut page, item)?;
            }
        }
        page.push_str("</body></html>\n");
        Ok(page)
    }

    fn example(&self, page: &mut String, item: &Item) -> Result<()> {
        let number = |outcome: &Option<super::item::Outcome<f64>>| {
            outcome.as_ref().and_then(|o| o.value).map(|value| format!(" · DINOv2 {value:.3}"))
        };
        let score = item.judgement.as_ref().and_then(|judgement| judgement.value.as_ref());
        let _ = write!(
            page,
            "<section><p><b>{}</b> {}{}{}</p>",
            item.id,
            escaped(&item.plan.second_caption(&self.config().diptych.template)),
            number(&item.similarity).unwrap_or_default(),
            score.map(|judgement| format!(" · score {:.2}", judgement.score)).unwrap_or_default()
        );
        let panels = item.split.as_ref().and_then(|split| split.value.as_ref());
        let files: Vec<&PathBuf> = match panels {
            Some(panels) => panels.files.iter().collect(),
            None => item.diptych.iter().filter_map(|diptych| diptych.value.as_ref()).collect(),
        };
        let made = item.regeneration.iter().filter_map(|made| made.value.as_ref());
        for file in files.into_iter().chain(made) {
            let _ = write!(page, "<figure>{}</figure>", thumbnail(&self.path(file))?);
        }
        page.push_str("</section>");
        Ok(())
    }
}

/// An entry of UNO-1M's labels, for a pair that was judged.
fn label(item: &Item, names: &[String; 2], prompt: &str) -> Option<Value> {
    let judgement = item.judgement.as_ref()?.value.as_ref()?;
    Some(json!({
        "img_path1": names[0],
        "img_path2": names[1],
        "caption": {
            "img_path1": item.plan.first_caption(),
            "img_path2": prompt,
            "judgment": "same",
            "subject": [item.plan.name],
        },
        "vlm_filter_cot": { "score_part": judgement.scores, "score_final": judgement.score },
    }))
}
