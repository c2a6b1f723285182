//! Names written with braces, `train-{000000..000146}.tar` and `{a,b}.tar`, expanded as Python's
//! `braceexpand` does (<https://github.com/trendels/braceexpand>), which webdataset calls.

use crate::error::{Error, Result};

/// Most names of a pattern.
const MOST: usize = 1 << 16;
/// Longest pattern, in bytes: that of a path.
const LONGEST: usize = 4096;
/// Deepest nesting of braces.
const DEEPEST: usize = 16;

/// Every name that a pattern stands for, in order. A backslash takes the meaning from the character
/// behind it; `{a}` stands for itself.
///
/// # Errors
/// If a brace is not closed, or the names are too many.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>> {
    let failed = |what: String| Error::input(format!("data {}: {what}", pattern.escape_debug()));
    if pattern.len() > LONGEST {
        return Err(failed(format!("expected at most {LONGEST} bytes, found {}", pattern.len())));
    }
    Ok(names(pattern, DEEPEST).map_err(failed)?.iter().map(|name| unescaped(name)).collect())
}

/// The names of a pattern, escapes left as they are.
fn names(pattern: &str, depth: usize) -> Result<Vec<String>, String> {
    let depth = depth.checked_sub(1).ok_or(format!("expected at most {DEEPEST} nested braces"))?;
    let mut all = vec![String::new()];
    let (mut rest, mut found) = (pattern, Vec::new());
    while let Some((before, inside, after)) = first_braces(rest)? {
        found.push(vec![before.to_owned()]);
        found.push(expression(inside, depth)?);
        rest = after;
    }
    found.push(vec![rest.to_owned()]);
    for choices in found {
        if all.len().saturating_mul(choices.len()) > MOST {
            return Err(format!("expected at most {MOST} names, found more"));
        }
        all = all
            .iter()
            .flat_map(|start| choices.iter().map(move |choice| format!("{start}{choice}")))
            .collect();
        if all.iter().any(|name| name.len() > LONGEST) {
            return Err(format!("expected names of at most {LONGEST} bytes, found a longer one"));
        }
    }
    Ok(all)
}

/// The places of characters that no backslash precedes.
fn plain(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut escaped = false;
    text.char_indices().filter(move |&(_, c)| {
        let counts = !escaped && c != '\\';
        escaped = !escaped && c == '\\';
        counts
    })
}

/// The text before the first outermost braces, in them, and behind them.
fn first_braces(text: &str) -> Result<Option<(&str, &str, &str)>, String> {
    let (mut depth, mut open) = (0usize, 0);
    for (at, c) in plain(text) {
        match c {
            '{' => {
                if depth == 0 {
                    open = at;
                }
                depth += 1;
            }
            '}' => {
                depth = depth.checked_sub(1).ok_or("expected `{` before `}`")?;
                if depth == 0 {
                    return Ok(Some((&text[..open], &text[open + 1..at], &text[at + 1..])));
                }
            }
            _ => {}
        }
    }
    if depth == 0 { Ok(None) } else { Err("expected `}` behind `{`".into()) }
}

/// What stands in braces: a range or a list.
fn expression(inside: &str, depth: usize) -> Result<Vec<String>, String> {
    if let Some(range) = range(inside)? {
        return Ok(range);
    }
    let (mut items, mut start, mut open) = (Vec::new(), 0, 0usize);
    for (at, c) in plain(inside) {
        match c {
            '{' => open += 1,
            '}' => open = open.saturating_sub(1),
            ',' if open == 0 => {
                items.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if items.is_empty() {
        return Ok(vec![format!("{{{inside}}}")]);
    }
    items.push(&inside[start..]);
    let mut all = Vec::new();
    for item in items {
        all.extend(names(item, depth)?);
        if all.len() > MOST {
            return Err(format!("expected at most {MOST} names, found more"));
        }
    }
    Ok(all)
}

/// `1..3`, `03..01`, `a..e..2`: numbers are padded with zeros if one of the ends is.
fn range(text: &str) -> Result<Option<Vec<String>>, String> {
    let parts: Vec<&str> = text.split("..").collect();
    let (first, last, step) = match parts.as_slice() {
        [first, last] => (*first, *last, "1"),
        [first, last, step] => (*first, *last, step.strip_prefix('-').unwrap_or(step)),
        _ => return Ok(None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let whole = |text: &str| digits(text.strip_prefix('-').unwrap_or(text));
    let letter = |text: &str| match text.as_bytes() {
        [c] if c.is_ascii_alphabetic() => Some(*c),
        _ => None,
    };
    if !digits(step) {
        return Ok(None);
    }
    let number = |text: &str| {
        text.parse::<i64>()
            .ok()
            .filter(|n| n.unsigned_abs() < 1 << 62)
            .ok_or_else(|| format!("expected numbers below 2^62 in braces, found {text}"))
    };
    let step = number(step)?.max(1);
    if whole(first) && whole(last) {
        let padded = |text: &&str| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            digits.starts_with('0') && *text != "0" && *text != "-0"
        };
        let width = if [first, last].iter().any(padded) { first.len().max(last.len()) } else { 0 };
        let values = steps(number(first)?, number(last)?, step)?;
        return Ok(Some(values.iter().map(|value| format!("{value:0width$}")).collect()));
    }
    // upper case comes before lower case, with nothing between them
    let place = |c: u8| i64::from(if c < b'a' { c - b'A' } else { c - b'a' + 26 });
    let (Some(first), Some(last)) = (letter(first), letter(last)) else { return Ok(None) };
    let name = |place: i64| {
        let place = u8::try_from(place).unwrap_or_default();
        char::from(if place < 26 { b'A' + place } else { b'a' + (place - 26) }).to_string()
    };
    Ok(Some(steps(place(first), place(last), step)?.into_iter().map(name).collect()))
}

/// From `first` to `last`, both included, up or down.
fn steps(first: i64, last: i64, step: i64) -> Result<Vec<i64>, String> {
    if (last - first).unsigned_abs() / step.unsigned_abs() >= MOST as u64 {
        return Err(format!("expected at most {MOST} names, found more"));
    }
    let step = if last < first { -step } else { step };
    let next = |value: &i64| value.checked_add(step);
    let inside = |value: &i64| if step < 0 { *value >= last } else { *value <= last };
    Ok(std::iter::successors(Some(first), next).take_while(inside).collect())
}

fn unescaped(text: &str) -> String {
    let mut escaped = false;
    text.chars()
        .filter(|&c| {
            let dropped = !escaped && c == '\\';
            escaped = dropped;
            !dropped
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_expand_as_in_python() {
        for (pattern, expected) in [
            ("a.tar", "a.tar"),
            ("x{08..11}.tar", "x08.tar x09.tar x10.tar x11.tar"),
            ("{1..3}", "1 2 3"),
            ("{3..1}", "3 2 1"),
            ("{1..8..3}", "1 4 7"),
            ("{8..1..-3}", "8 5 2"),
            ("{-01..1}", "-01 000 001"),
            ("{0..10..5}", "0 5 10"),
            ("{a..e..2}", "a c e"),
            ("{Y..b}", "Y Z a b"),
            ("{a,b}-{0..1}", "a-0 a-1 b-0 b-1"),
            ("{a,b{1..2},}c", "ac b1c b2c c"),
            ("{a}", "{a}"),
            ("{1..x}", "{1..x}"),
            ("\\{a,b\\}", "{a,b}"),
            ("{a\\,b,c}", "a,b c"),
            ("{1..2}{,x}", "1 1x 2 2x"),
            ("\u{e9}{1..2}", "\u{e9}1 \u{e9}2"),
        ] {
            assert_eq!(expand(pattern).unwrap().join(" "), expected, "{pattern}");
        }
    }

    #[test]
    fn patterns_without_end_are_refused() {
        for (pattern, what) in [
            ("{1..2", "expected `}`"),
            ("1..2}", "expected `{`"),
            ("{0..99999999999}", "at most 65536 names"),
            ("{0..999}{0..999}", "at most 65536 names"),
            ("{{0..999},{0..65000}}", "at most 65536 names"),
            ("{0..99999999999999999999}", "numbers below 2^62"),
        ] {
            let error = expand(pattern).unwrap_err().to_string();
            assert!(error.contains(what), "{pattern}: {error}");
        }
        let deep = format!("{}a,b{}", "{c,".repeat(40), "}".repeat(40));
        assert!(expand(&deep).unwrap_err().to_string().contains("nested braces"));
        assert!(expand(&"{a,b}".repeat(1000)).is_err());
    }
}
