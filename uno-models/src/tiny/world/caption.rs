//! Captions in plain words.

use super::draw::Draw;
use super::picture::Composition;
use super::subject::{Kind, Look, Pattern, Subject};

/// How much a caption says of the subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What they are and how they look ("a red mug with white dots"): for text-to-image.
    Looks,
    /// What they are only ("a mug"): colours and pattern have to come from a reference.
    KindOnly,
}

/// "a" or "an", and the words.
fn with_article(words: &str) -> String {
    let article = if words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {words}")
}

/// A subject in words.
pub fn of_subject(subject: Subject, detail: Detail) -> String {
    let (kind, look) = (subject.kind.word(), subject.look);
    let (first, second) = (look.first.word(), look.second.word());
    with_article(&match (detail, look.pattern) {
        (Detail::KindOnly, _) => kind.to_owned(),
        (Detail::Looks, Pattern::Plain) => format!("plain {first} and {second} {kind}"),
        (Detail::Looks, pattern) => format!("{first} {kind} with {second} {}", pattern.word()),
    })
}

/// The caption of a picture; `draw` decides whether it begins with "a photo of".
pub fn of_picture(composition: &Composition, detail: Detail, draw: &mut Draw) -> String {
    let names: Vec<String> = composition.subjects.iter().map(|&s| of_subject(s, detail)).collect();
    let subjects = match &names[..] {
        [first, second] => format!("{first} {} {second}", composition.relation.word()),
        [first, second, third] => format!("{first}, {second} and {third}"),
        _ => names.concat(),
    };
    let start = if draw.chance(0.5) { "a photo of " } else { "" };
    format!("{start}{subjects} {}", composition.scene.word())
}

/// The subject whose look a text describes: the longest description in it.
pub fn subject_in(text: &str) -> Option<Subject> {
    let all = Kind::ALL.iter().flat_map(|&kind| Look::all().map(move |look| Subject { kind, look }));
    all.filter(|&subject| text.contains(&of_subject(subject, Detail::Looks)))
        .max_by_key(|&subject| of_subject(subject, Detail::Looks).len())
}

#[cfg(test)]
mod tests {
    use super::super::picture::Relation;
    use super::super::scene::Scene;
    use super::super::subject::Hue;
    use super::*;

    fn subject(kind: Kind, first: Hue, pattern: Pattern) -> Subject {
        Subject { kind, look: Look { first, second: Hue::White, pattern } }
    }

    #[test]
    fn captions_name_looks_only_where_they_are_asked_for() {
        let subjects = [
            subject(Kind::Mug, Hue::Orange, Pattern::Dots),
            subject(Kind::Ball, Hue::Black, Pattern::Plain),
            subject(Kind::Car, Hue::Red, Pattern::Checks),
        ];
        let caption = |count: usize, detail| {
            let subjects = subjects[..count].to_vec();
            let (scene, relation) = (Scene::Beach, Relation::OnTopOf);
            let text =
                of_picture(&Composition { scene, subjects, relation, seed: 0 }, detail, &mut Draw::new(0));
            text.trim_start_matches("a photo of ").to_owned()
        };
        assert_eq!(caption(1, Detail::Looks), "an orange mug with white dots on a beach");
        assert_eq!(caption(1, Detail::KindOnly), "a mug on a beach");
        assert_eq!(
            caption(2, Detail::Looks),
            "an orange mug with white dots on top of a plain black and white ball on a beach"
        );
        assert_eq!(caption(3, Detail::KindOnly), "a mug, a ball and a car on a beach");
    }

    #[test]
    fn a_description_leads_back_to_its_subject() {
        let dotted = subject(Kind::Mug, Hue::Orange, Pattern::Dots);
        let text = format!("Where is {}?", of_subject(dotted, Detail::Looks));
        assert_eq!(subject_in(&text), Some(dotted));
        assert_eq!(subject_in("Where is a mug?"), None);
    }
}
