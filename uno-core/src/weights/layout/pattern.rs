//! Name patterns: `{}` stands for a number.

/// The numbers in `name` if it fits `pattern`, in which each `{}` stands for a number without a sign or leading zeros.
///
/// With `separator` other than `.`, the pattern is read as if all its dots were that.
pub(crate) fn matches(pattern: &str, name: &str, separator: char) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    let mut rest = name;
    let mut literals = pattern.split("{}");
    rest = strip(literals.next()?, rest, separator)?;
    for literal in literals {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        // Otherwise two names would be one.
        if digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        numbers.push(digits.parse().ok()?);
        rest = strip(literal, after, separator)?;
    }
    rest.is_empty().then_some(numbers)
}

/// `text` after `literal`, whose dots stand for `separator`.
fn strip<'a>(literal: &str, text: &'a str, separator: char) -> Option<&'a str> {
    let mut rest = text.chars();
    for wanted in literal.chars() {
        let wanted = if wanted == '.' { separator } else { wanted };
        if rest.next() != Some(wanted) {
            return None;
        }
    }
    Some(rest.as_str())
}

/// `pattern` with `numbers` in it, in order.
pub(crate) fn fill(pattern: &str, numbers: &[usize]) -> String {
    let mut numbers = numbers.iter();
    let mut literals = pattern.split("{}");
    let mut out = literals.next().unwrap_or_default().to_owned();
    for literal in literals {
        if let Some(number) = numbers.next() {
            out.push_str(&number.to_string());
        }
        out.push_str(literal);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_and_put_back() {
        let pattern = "decoder.up_blocks.{}.resnets.{}.conv1";
        let name = "decoder.up_blocks.12.resnets.0.conv1";
        let numbers = matches(pattern, name, '.').unwrap();
        assert_eq!((numbers.as_slice(), fill(pattern, &numbers).as_str()), (&[12, 0][..], name));
        assert_eq!(matches("a.{}.b_c", "a_7_b_c", '_'), Some(vec![7]));
        assert_eq!(matches("plain.name", "plain.name", '.'), Some(vec![]));
    }

    #[test]
    fn names_that_do_not_fit_are_no_match() {
        let too_big = format!("a.{}0.b", usize::MAX);
        for name in [
            "", "a", "a.", "a..b", "a.+1.b", "a.-1.b", "a.01.b", "a.1.bc", "xa.1.b", "a.1.b.", "a.é.b",
            &too_big,
        ] {
            assert_eq!(matches("a.{}.b", name, '.'), None, "{name}");
        }
        assert_eq!(matches("a.{}.b", "a.0.b", '.'), Some(vec![0]));
    }
}
