//! The nearest right word to a wrong one, for errors that say what was probably meant.

/// Of `words`, the one that `wrong` was probably meant to be: a letter too many, too few, wrong or
/// swapped for each three letters (at least one), or the beginning of one another. Case is no matter.
pub fn nearest<'a>(wrong: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let begins = |one: &str, other: &str| one.len() >= 2 && other.starts_with(one);
    words
        .into_iter()
        .filter_map(|word| {
            let known = word.to_lowercase();
            let distance = strsim::damerau_levenshtein(&wrong, &known);
            let most = (known.chars().count() / 3).max(1);
            let near = distance <= most || begins(&wrong, &known) || begins(&known, &wrong);
            (near && !wrong.is_empty()).then_some((distance, word))
        })
        // The first of several that are as near, as they are listed.
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    const WORDS: [&str; 4] = ["kill", "ps", "checkpoint", "limit"];

    #[test]
    fn a_slip_of_the_fingers_is_understood() {
        let pairs =
            [("klil", "kill"), ("sp", "ps"), ("chekpiont", "checkpoint"), ("limits", "limit"), ("check", "checkpoint")];
        for (wrong, right) in pairs {
            assert_eq!(nearest(wrong, WORDS), Some(right), "{wrong}");
        }
        assert_eq!(nearest("PS", WORDS), Some("ps"));
    }

    #[test]
    fn another_word_is_not_bent() {
        for wrong in ["bash", "", "writefile", "x"] {
            assert_eq!(nearest(wrong, WORDS), None, "{wrong}");
        }
    }
}
