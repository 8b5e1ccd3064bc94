//! What diptychs show: classes of objects, subjects of each class, scenes, and prompts made of these.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::endpoint::{Endpoint, Part};
use super::seam::Layout;
use crate::error::{Error, Result};
use crate::text_file;
use crate::train::random::{Draws, Purpose};

/// Largest file that is read.
const MAX_BYTES: u64 = 64 << 20;
/// Longest description of a subject or a scene, in characters.
const MAX_WORDS: usize = 400;

/// Classes with their subjects, and scenes that subjects may be in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taxonomy {
    /// Classes of objects.
    pub classes: Vec<Class>,
}

/// A class of objects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Its name: "mug".
    pub name: String,
    /// Subjects of it.
    pub subjects: Vec<SubjectEntry>,
}

/// A subject, described so that it is the same in two pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectEntry {
    /// What it looks like, with its article: "a red mug with white dots".
    pub description: String,
    /// What it is called where a reference shows how it looks: "a mug". By default the class with an article.
    #[serde(default)]
    pub name: Option<String>,
    /// Scenes: "on a beach".
    pub scenes: Vec<String>,
}

/// A diptych to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiptychPlan {
    /// Class of the subject that both panels show.
    pub class: String,
    /// That subject, described.
    pub subject: String,
    /// That subject, named.
    pub name: String,
    /// The subject that only the second panel shows, described.
    pub companion: String,
    /// That subject, named.
    pub companion_name: String,
    /// Scenes of the first and of the second panel.
    pub scenes: [String; 2],
    /// How the panels lie.
    pub layout: Layout,
    /// Seed of the picture.
    pub seed: u64,
}

/// The words of a diptych's prompt. `{subject}`, `{companion}`, `{first scene}`, `{second scene}` and `{layout}` are replaced.
pub const TEMPLATE: &str = "A diptych, two pictures {layout} with a straight edge between them, of the same subject: {subject}. \
    First picture: {subject} {first scene}. Second picture: {subject} and {companion} {second scene}.";

impl Taxonomy {
    /// Reads one from a JSON file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is none; fewer than two subjects, or one with fewer than two scenes.
    pub fn read(path: &Path) -> Result<Self> {
        let text = text_file::read(path, MAX_BYTES, "a taxonomy")?;
        let taxonomy: Self = serde_json::from_str(&text).map_err(|e| {
            let form = r#"{"classes": [{"name": "mug", "subjects": [{"description": "a red mug", "scenes": ["on a beach", "at night"]}]}]}"#;
            Error::format(path, format!("is no taxonomy: {e}; wanted {form}"))
        })?;
        taxonomy.validate().map_err(|reason| Error::format(path, reason))?;
        Ok(taxonomy)
    }

    fn validate(&self) -> Result<(), String> {
        let mut count = 0;
        for (class, subject) in self.subjects() {
            let scenes: BTreeSet<&str> = subject.scenes.iter().map(String::as_str).collect();
            if scenes.len() < 2 {
                return Err(format!(
                    "{:?} of class {:?} has {} scenes; wanted at least two",
                    subject.description,
                    class.name,
                    scenes.len()
                ));
            }
            let words = scenes.into_iter().chain([class.name.as_str(), subject.description.as_str()]);
            for words in words.chain(subject.name.as_deref()) {
                if words.trim().is_empty() || words.chars().count() > MAX_WORDS {
                    return Err(format!(
                        "class {:?}: got {words:?}, wanted 1 to {MAX_WORDS} characters",
                        class.name
                    ));
                }
            }
            count += 1;
        }
        if count < 2 {
            return Err(format!(
                "has {count} subjects; wanted at least two, one for each place of a diptych"
            ));
        }
        Ok(())
    }

    fn subjects(&self) -> impl Iterator<Item = (&Class, &SubjectEntry)> {
        self.classes.iter().flat_map(|class| class.subjects.iter().map(move |subject| (class, subject)))
    }

    /// Asks an endpoint for `subjects` subjects of a class with `scenes` scenes each: plain ones, creative ones, and ones with
    /// text, as in the paper.
    ///
    /// # Errors
    ///
    /// What the endpoint returns.
    pub fn ask(endpoint: &Endpoint, class: &str, subjects: usize, scenes: usize) -> Result<Class> {
        let text = json!({ "type": "string" });
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["subjects"],
            "properties": { "subjects": { "type": "array", "items": {
                "type": "object", "additionalProperties": false, "required": ["description", "name", "scenes"],
                "properties": { "description": text, "name": text, "scenes": { "type": "array", "items": text } },
            } } },
        });
        let question = format!(
            "List {subjects} subjects of the class \"{class}\": a third of them everyday ones, a third unusual in material, colour or \
             shape, a third with readable text on them. Describe each in at most 25 words so exactly that two painters would \
             paint the same object, beginning with an article (\"a red mug with white dots\"). Name it in two words with an \
             article (\"a mug\"). Give {scenes} scenes that it may be in, each a phrase that continues a sentence (\"on a \
             beach\"). Answer as JSON."
        );
        endpoint.ask(&[Part::Text(&question)], ("subjects", &schema), |value| {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Answer {
                subjects: Vec<SubjectEntry>,
            }
            let Answer { subjects: found } = serde_json::from_value::<Answer>(value)
                .map_err(|e| format!("is not of the form asked for ({e})"))?;
            if found.len() < 2 {
                return Err(format!("has {} subjects, wanted {subjects}", found.len()));
            }
            let class = Class { name: class.to_owned(), subjects: found };
            Self { classes: vec![class.clone()] }.validate()?;
            Ok(class)
        })
    }

    /// Diptych `index`: the same for the same seed, whatever is made before it.
    pub fn plan(&self, seed: u64, index: usize) -> Option<DiptychPlan> {
        let subjects: Vec<_> = self.subjects().collect();
        if subjects.len() < 2 {
            return None;
        }
        let mut draws = Draws::new(seed, Purpose::Other(8), index as u64);
        let first = draws.below(subjects.len());
        let (class, subject) = subjects[first];
        // Of another class where there is one: two of a kind would be mixed up.
        let others: Vec<_> = subjects
            .iter()
            .enumerate()
            .filter(|(i, (other, _))| *i != first && other.name != class.name)
            .collect();
        let (companion_class, companion) = match others.is_empty() {
            false => *others[draws.below(others.len())].1,
            true => subjects[(first + 1 + draws.below(subjects.len() - 1)) % subjects.len()],
        };
        let a = draws.below(subject.scenes.len());
        let b = (a + 1 + draws.below(subject.scenes.len() - 1)) % subject.scenes.len();
        let name = |class: &Class, subject: &SubjectEntry| {
            subject.name.clone().unwrap_or_else(|| {
                let article = if class.name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
                format!("{article} {}", class.name)
            })
        };
        Some(DiptychPlan {
            class: class.name.clone(),
            subject: subject.description.clone(),
            name: name(class, subject),
            companion: companion.description.clone(),
            companion_name: name(companion_class, companion),
            scenes: [subject.scenes[a].clone(), subject.scenes[b].clone()],
            layout: if draws.below(2) == 0 { Layout::SideBySide } else { Layout::Stacked },
            seed: draws.bits() >> 32,
        })
    }
}

/// Whether diptychs of a template have a companion in their second panel.
pub(super) fn has_companion(template: &str) -> bool {
    template.contains("{companion}")
}

impl DiptychPlan {
    /// The prompt of the diptych, by a template such as [`TEMPLATE`].
    pub fn prompt(&self, template: &str) -> String {
        let layout = match self.layout {
            Layout::SideBySide => "side by side",
            Layout::Stacked => "one above the other",
        };
        // In one pass, so that a brace in a description stays what it is.
        let places = [
            ("{subject}", self.subject.as_str()),
            ("{companion}", self.companion.as_str()),
            ("{first scene}", self.scenes[0].as_str()),
            ("{second scene}", self.scenes[1].as_str()),
            ("{layout}", layout),
        ];
        let (mut prompt, mut rest) = (String::new(), template);
        while let Some(at) = rest.find('{') {
            let (before, from) = rest.split_at(at);
            prompt.push_str(before);
            match places.iter().find(|(place, _)| from.starts_with(place)) {
                Some((place, words)) => {
                    prompt.push_str(words);
                    rest = &from[place.len()..];
                }
                None => {
                    prompt.push('{');
                    rest = &from[1..];
                }
            }
        }
        prompt.push_str(rest);
        prompt
    }

    /// The prompt of the second panel as a training sample with the first as reference; it names the companion if `template`,
    /// the diptych's, asked for one.
    pub fn second_caption(&self, template: &str) -> String {
        let (name, scene) = (&self.name, &self.scenes[1]);
        match has_companion(template) {
            true => format!("{name} and {} {scene}", self.companion_name),
            false => format!("{name} {scene}"),
        }
    }

    /// The prompt of the first panel.
    pub fn first_caption(&self) -> String {
        format!("{} {}", self.name, self.scenes[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taxonomy() -> Taxonomy {
        let subject = |description: &str| SubjectEntry {
            description: description.into(),
            name: None,
            scenes: ["on a beach", "in the snow", "at night"].map(String::from).to_vec(),
        };
        let class = |name: &str, subjects: &[&str]| Class {
            name: name.into(),
            subjects: subjects.iter().map(|s| subject(s)).collect(),
        };
        Taxonomy { classes: vec![class("mug", &["a red mug", "a blue mug"]), class("owl", &["a grey owl"])] }
    }

    #[test]
    fn plans_depend_on_seed_and_number_alone_and_never_repeat_a_subject_or_scene_within_one() {
        let taxonomy = taxonomy();
        let mut layouts = BTreeSet::new();
        for i in 0..200 {
            let plan = taxonomy.plan(5, i).unwrap();
            assert_eq!(taxonomy.plan(5, i), Some(plan.clone()));
            assert!(plan.subject != plan.companion && plan.scenes[0] != plan.scenes[1], "{plan:?}");
            assert_ne!(plan.name, plan.companion_name);
            layouts.insert(format!("{:?}", plan.layout));
        }
        assert_eq!(layouts.len(), 2);
        assert_ne!(taxonomy.plan(5, 0), taxonomy.plan(6, 0));
    }

    #[test]
    fn a_prompt_names_everything_and_braces_in_descriptions_stay() {
        let plan = DiptychPlan {
            class: "mug".into(),
            subject: "a mug with {layout} on it".into(),
            name: "a mug".into(),
            companion: "a grey owl".into(),
            companion_name: "an owl".into(),
            scenes: ["on a beach".into(), "at night".into()],
            layout: Layout::Stacked,
            seed: 0,
        };
        let prompt = plan.prompt("{layout}: {subject} {first scene} | {companion} {second scene} {else}");
        assert_eq!(
            prompt,
            "one above the other: a mug with {layout} on it on a beach | a grey owl at night {else}"
        );
        assert_eq!(plan.second_caption(TEMPLATE), "a mug and an owl at night");
        assert_eq!(plan.second_caption("{subject} {first scene}, then {second scene}"), "a mug at night");
    }

    #[test]
    fn files_that_are_no_taxonomy_are_refused_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taxonomy.json");
        let one = r#"{"description": "a mug", "scenes": ["here", "there"]}"#;
        for (text, wanted) in [
            ("", "is no taxonomy"),
            (r#"{"classes": []}"#, "0 subjects"),
            (&format!(r#"{{"classes": [{{"name": "mug", "subjects": [{one}]}}]}}"#), "1 subjects"),
            (
                r#"{"classes": [{"name": "mug", "subjects": [{"description": "a", "scenes": ["x", "x"]}]}]}"#,
                "1 scenes",
            ),
            (
                r#"{"classes": [{"name": "mug", "subjects": [{"description": " ", "scenes": ["x", "y"]}]}]}"#,
                "characters",
            ),
            (r#"{"classes": [], "more": 1}"#, "more"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Taxonomy::read(&path).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
