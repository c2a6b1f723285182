//! Which output of a student is compared with which of a teacher.

use super::outputs::Output;
use crate::error::{Error, Result};
use crate::onnx::nearest;
use crate::recipe::OutputPair;

/// Two outputs, by their positions in both lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) student: usize,
    pub(super) teacher: usize,
    /// What pairs them, where it is a guess.
    pub(super) guess: Option<&'static str>,
}

/// Whether a rule pairs two outputs, given the pairs of the rules before it.
type Rule<'a> = &'a dyn Fn(usize, usize, &[Pair]) -> bool;

/// Pairs outputs as the user asks; else by name, else by a shape that only one of each side has,
/// else by position where the shapes agree.
///
/// # Errors
/// If an output that the user names does not exist or its shape differs, or nothing pairs.
pub(super) fn pair(
    student: &[Output],
    teacher: &[Output],
    asked: &[OutputPair],
) -> Result<Vec<Pair>> {
    if !asked.is_empty() {
        return asked.iter().map(|asked| named(student, teacher, asked)).collect();
    }
    let mut pairs: Vec<Pair> = Vec::new();
    let fits = |s: usize, t: usize| teacher[t].has_row(&student[s].row);
    let by_name = |s: usize, t: usize, _: &[Pair]| teacher[t].is_called(&student[s].name);
    let by_shape = |s: usize, t: usize, pairs: &[Pair]| {
        let others = |s: usize, t: usize| is_free(pairs, s, t) && fits(s, t);
        (0..student.len()).filter(|&s| others(s, t)).count() == 1
            && (0..teacher.len()).filter(|&t| others(s, t)).count() == 1
    };
    let by_position = |s: usize, t: usize, _: &[Pair]| {
        student[s].position.is_some() && student[s].position == teacher[t].position
    };
    let rules: [(Rule<'_>, Option<&str>); 3] = [
        (&by_name, None),
        (&by_shape, Some("by their shape, which no other has")),
        (&by_position, Some("by their position")),
    ];
    for (rule, guess) in rules {
        let before = pairs.clone();
        for s in 0..student.len() {
            let fit = |&t: &usize| is_free(&pairs, s, t) && fits(s, t) && rule(s, t, &before);
            if let Some(t) = (0..teacher.len()).find(fit) {
                pairs.push(Pair { student: s, teacher: t, guess });
            }
        }
    }
    if pairs.is_empty() {
        return Err(Error::input(format!(
            "outputs: expected some of one shape, found {} of the student and {} of the teacher",
            list(student),
            list(teacher)
        ))
        .hint(
            "--pair STUDENT=TEACHER compares any tensor of the student with one of the teacher",
        ));
    }
    pairs.sort_unstable_by_key(|pair| pair.student);
    Ok(pairs)
}

/// Whether neither output is in a pair.
fn is_free(pairs: &[Pair], student: usize, teacher: usize) -> bool {
    pairs.iter().all(|pair| pair.student != student && pair.teacher != teacher)
}

fn named(student: &[Output], teacher: &[Output], asked: &OutputPair) -> Result<Pair> {
    let find = |outputs: &[Output], name: &str, whose: &str| {
        outputs.iter().position(|output| output.is_called(name)).ok_or_else(|| {
            let known: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
            let near: Vec<String> =
                nearest(name, &known).iter().map(|name| format!("`{name}`")).collect();
            Error::input(format!(
                "--pair {}={}: expected an output of the {whose}, found `{name}`",
                asked.student, asked.teacher
            ))
            .hint(format!("the {whose} has {}", near.join(", ")))
        })
    };
    let s = find(student, &asked.student, "student")?;
    let t = find(teacher, &asked.teacher, "teacher")?;
    if !teacher[t].has_row(&student[s].row) {
        return Err(Error::input(format!(
            "--pair {}={}: expected outputs of one shape, found {} and {}",
            asked.student,
            asked.teacher,
            student[s].describe(),
            teacher[t].describe()
        ))
        .hint(format!(
            "the student has {}; the teacher has {}",
            list(student),
            list(teacher)
        )));
    }
    Ok(Pair { student: s, teacher: t, guess: None })
}

fn list(outputs: &[Output]) -> String {
    if outputs.is_empty() {
        return "none".to_owned();
    }
    outputs.iter().map(Output::describe).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Dtype;

    fn outputs(list: &[(&str, &[usize])]) -> Vec<Output> {
        let output = |(position, &(name, row)): (usize, &(&str, &[usize]))| Output {
            name: name.into(),
            also: Vec::new(),
            row: row.to_vec(),
            flat: None,
            channel_axis: None,
            dtype: Dtype::F32,
            nature: None,
            is_classes: false,
            position: Some(position),
        };
        list.iter().enumerate().map(output).collect()
    }

    fn found(student: &[Output], teacher: &[Output]) -> Vec<(usize, usize, bool)> {
        let pairs = pair(student, teacher, &[]).unwrap();
        pairs.into_iter().map(|p| (p.student, p.teacher, p.guess.is_some())).collect()
    }

    #[test]
    fn names_go_before_shapes_and_shapes_before_positions() {
        let teacher = outputs(&[("a", &[4]), ("b", &[4]), ("c", &[2, 3]), ("d", &[7])]);
        assert_eq!(
            found(&outputs(&[("b", &[4]), ("x", &[2, 3])]), &teacher),
            [(0, 1, false), (1, 2, true)]
        );
        // the name is another shape's
        assert_eq!(found(&outputs(&[("a", &[7])]), &teacher), [(0, 3, true)]);
        // two of a shape: by position
        assert_eq!(
            found(&outputs(&[("x", &[4]), ("y", &[4])]), &teacher),
            [(0, 0, true), (1, 1, true)]
        );
        // what one name takes leaves the other alone
        assert_eq!(
            found(&outputs(&[("y", &[4]), ("a", &[4])]), &teacher),
            [(0, 1, true), (1, 0, false)]
        );
        let error = pair(&outputs(&[("x", &[5])]), &teacher, &[]).unwrap_err();
        assert!(error.to_string().contains("`x` [5] of the student and `a` [4]"), "{error}");
    }

    #[test]
    fn what_is_asked_for_is_checked() {
        let student = outputs(&[("x", &[4]), ("y", &[6, 3])]);
        let mut teacher = outputs(&[("a", &[4]), ("b", &[2, 3, 3])]);
        let asked = |text: &str| pair(&student, &teacher, &[text.parse().unwrap()]);
        assert_eq!(asked("x=a").unwrap(), [Pair { student: 0, teacher: 0, guess: None }]);
        let error = asked("y=b").unwrap_err();
        assert!(error.to_string().contains("`y` [6, 3] and `b` [2, 3, 3]"), "{error}");
        assert!(error.find_hint().is_some_and(|hint| hint.contains("`x` [4]")), "{error:?}");
        assert!(asked("z=a").unwrap_err().to_string().contains("of the student, found `z`"));
        assert!(asked("x=z").unwrap_err().to_string().contains("of the teacher, found `z`"));
        // a map of tokens is the tokens
        teacher[1].flat = Some((vec![6, 3], 1));
        assert_eq!(found(&student, &teacher), [(0, 0, true), (1, 1, true)]);
    }
}
