//! Which of the teacher's taps goes with which of the student's tensors.

use crate::cache::Manifest;
use crate::criterion::needs;
use crate::error::{Error, Result};
use crate::onnx::tap::{Role, Tap};
use crate::recipe::{CriterionRecipe, Layout, PairRecipe, Statistic};
use serde::{Deserialize, Serialize};

/// A map of the teacher in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeacherMap {
    /// Its name in the cache.
    pub alias: String,
    /// The ONNX tensor.
    pub tensor: String,
    /// Its spatial stage.
    pub stage: Option<usize>,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// What the cache holds of it, with the bytes of a decoded row.
    pub stored: Vec<(Statistic, usize)>,
}

/// A map of the student.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudentMap {
    /// The tensor.
    pub tensor: String,
    /// Its spatial stage.
    pub stage: Option<usize>,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Whether it is the last of its stage.
    pub suggested: bool,
}

/// Two maps to bring together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Alias of the teacher's map in the cache.
    pub teacher: String,
    /// Its channels, height, width.
    pub teacher_shape: [usize; 3],
    /// What the cache holds of it, with the bytes of a decoded row.
    #[serde(default)]
    pub teacher_stored: Vec<(Statistic, usize)>,
    /// The student's tensor.
    pub student: String,
    /// Its channels, height, width.
    pub student_shape: [usize; 3],
}

impl Pair {
    fn new(teacher: &TeacherMap, student: &StudentMap) -> Self {
        Self {
            teacher: teacher.alias.clone(),
            teacher_shape: teacher.shape,
            teacher_stored: teacher.stored.clone(),
            student: student.tensor.clone(),
            student_shape: student.shape,
        }
    }

    /// The statistics of the teacher's map that a criterion is computed from: those of fewest bytes that serve it and the student's size.
    ///
    /// # Errors
    /// When the cache holds none that does: names the criterion, the tap and what is there.
    pub fn read(&self, criterion: &CriterionRecipe) -> Result<Vec<Statistic>> {
        let [_, height, width] = self.teacher_shape;
        let student = [self.student_shape[1], self.student_shape[2]];
        needs::choose(criterion, &self.teacher_stored, [height, width], student).ok_or_else(|| {
            let names = |list: &[Statistic]| list.iter().map(|s| s.name()).collect::<Vec<_>>().join(" + ");
            let there: Vec<Statistic> = self.teacher_stored.iter().map(|(statistic, _)| *statistic).collect();
            let ways: Vec<String> = needs::ways(criterion).iter().map(|way| names(way)).collect();
            let small = if student[0] < height || student[1] < width {
                format!(" at {}x{} or smaller, the student's size (pooling precedes the statistic)", student[0], student[1])
            } else {
                String::new()
            };
            Error::input(format!(
                "criterion {}: tap {}: expected {}{small}, found {} at {height}x{width}",
                criterion.name(),
                self.teacher,
                ways.join(" or "),
                if there.is_empty() { "nothing".to_owned() } else { names(&there) },
            ))
        })
    }
}

/// The maps that a cache holds, in its order.
#[must_use]
pub fn teacher_maps(manifest: &Manifest) -> Vec<TeacherMap> {
    let taps = manifest.taps.iter().filter(|tap| tap.role == Role::Map);
    let map = |tap: &crate::cache::TapRecord| {
        let shape = manifest.map(&tap.alias)?.sizes();
        let stored = manifest.statistics(&tap.alias).map(|(statistic, spec)| (statistic, spec.row_bytes())).collect();
        Some(TeacherMap { alias: tap.alias.clone(), tensor: tap.tensor.clone(), stage: tap.stage, shape, stored })
    };
    taps.filter_map(map).collect()
}

/// The maps `[N, C, H, W]` among a student's taps, in graph order.
#[must_use]
pub fn student_maps(taps: &[Tap]) -> Vec<StudentMap> {
    let map = |tap: &Tap| match (tap.layout, tap.shape.as_slice()) {
        (Some(Layout::Nchw), &[_, Some(c), Some(h), Some(w)]) => {
            Some(StudentMap { tensor: tap.tensor.clone(), stage: tap.stage, shape: [c, h, w], suggested: tap.suggested })
        }
        _ => None,
    };
    taps.iter().filter_map(map).collect()
}

/// Pairs the teacher's maps with the student's suggested ones by spatial size, from the deepest stage up. The second value names what is left.
///
/// # Errors
/// When not one pair has the same size.
pub fn suggest(teacher: &[TeacherMap], student: &[StudentMap]) -> Result<(Vec<Pair>, Vec<String>)> {
    let deepest_first = |stage: Option<usize>| std::cmp::Reverse(stage.unwrap_or(0));
    let mut teachers: Vec<&TeacherMap> = teacher.iter().collect();
    let mut students: Vec<&StudentMap> = student.iter().filter(|s| s.suggested).collect();
    // later in the graph is deeper where stages are equal
    teachers.reverse();
    students.reverse();
    teachers.sort_by_key(|t| deepest_first(t.stage));
    students.sort_by_key(|s| deepest_first(s.stage));

    let (mut pairs, mut left) = (Vec::new(), Vec::new());
    for teacher in &teachers {
        match students.iter().position(|s| s.shape[1..] == teacher.shape[1..]) {
            Some(index) => pairs.push(Pair::new(teacher, students.remove(index))),
            None => left.push(format!("teacher's {} {}: no map of that size in the student", teacher.alias, size(teacher.shape))),
        }
    }
    left.extend(students.iter().map(|s| format!("student's {} {}: no map of that size in the cache", s.tensor, size(s.shape))));
    if pairs.is_empty() {
        let list = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(Error::input(format!(
            "taps: expected maps of one size, found teacher {} and student {}",
            list(teacher.iter().map(|t| format!("{} {}", t.alias, size(t.shape))).collect()),
            list(student.iter().filter(|s| s.suggested).map(|s| format!("{} {}", s.tensor, size(s.shape))).collect()),
        ))
        .hint("name pairs: --criterion 'nst:pair=TEACHER>STUDENT' pools the larger map"));
    }
    // shallowest first, as people read them
    pairs.reverse();
    Ok((pairs, left))
}

/// Resolves pairs that the recipe names: the teacher's by alias or tensor, the student's by tensor.
///
/// # Errors
/// When a name is unknown; lists the nearest.
pub fn explicit(requests: &[PairRecipe], teacher: &[TeacherMap], student: &[StudentMap]) -> Result<Vec<Pair>> {
    let pair = |request: &PairRecipe| {
        let t = teacher
            .iter()
            .find(|t| t.alias == request.teacher)
            .or_else(|| teacher.iter().find(|t| t.tensor == request.teacher))
            .ok_or_else(|| {
                unknown("teacher's tap", &request.teacher, teacher.iter().flat_map(|t| [t.alias.as_str(), t.tensor.as_str()]))
            })?;
        let s = student
            .iter()
            .find(|s| s.tensor == request.student)
            .ok_or_else(|| unknown("student's tensor", &request.student, student.iter().map(|s| s.tensor.as_str())))?;
        Ok(Pair::new(t, s))
    };
    requests.iter().map(pair).collect()
}

fn size(shape: [usize; 3]) -> String {
    format!("{}x{}x{}", shape[0], shape[1], shape[2])
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let mut near: Vec<&str> = known.collect();
    near.sort_by(|a, b| strsim::jaro_winkler(b, name).total_cmp(&strsim::jaro_winkler(a, name)));
    near.dedup();
    near.truncate(3);
    let error = Error::input(format!("{what} `{name}`: no such map"));
    if near.is_empty() {
        error.hint("the cache holds no maps: extract again with --tap TENSOR")
    } else {
        error.hint(format!("nearest: {}", near.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teacher(alias: &str, stage: usize, shape: [usize; 3]) -> TeacherMap {
        TeacherMap { alias: alias.into(), tensor: format!("/{alias}/Add"), stage: Some(stage), shape, stored: vec![(Statistic::Features, 2)] }
    }

    fn student(tensor: &str, stage: usize, shape: [usize; 3], suggested: bool) -> StudentMap {
        StudentMap { tensor: tensor.into(), stage: Some(stage), shape, suggested }
    }

    fn teachers() -> Vec<TeacherMap> {
        vec![teacher("stage1", 1, [32, 28, 28]), teacher("stage2", 2, [64, 14, 14]), teacher("stage3", 3, [128, 7, 7])]
    }

    #[test]
    fn sizes_decide_and_the_rest_is_named() {
        let students = [
            student("a", 1, [16, 14, 14], false),
            student("b", 1, [16, 14, 14], true),
            student("c", 2, [32, 7, 7], true),
            student("d", 3, [64, 4, 4], true),
        ];
        let (pairs, left) = suggest(&teachers(), &students).unwrap();
        let names: Vec<_> = pairs.iter().map(|p| (p.teacher.as_str(), p.student.as_str())).collect();
        assert_eq!(names, [("stage2", "b"), ("stage3", "c")]);
        assert_eq!(left.len(), 2);
        assert!(left[0].contains("stage1") && left[1].contains('d'));
    }

    #[test]
    fn nothing_in_common_is_an_error_with_a_way_out() {
        let error = suggest(&teachers(), &[student("x", 1, [8, 5, 5], true)]).unwrap_err();
        assert!(error.to_string().contains("stage3 128x7x7") && error.to_string().contains("x 8x5x5"));
        assert!(error.find_hint().unwrap().contains("pair="));
    }

    #[test]
    fn explicit_pairs_by_alias_or_tensor() {
        let students = [student("/layer1/Relu", 1, [16, 28, 28], false)];
        let request = |t: &str, s: &str| [PairRecipe { teacher: t.into(), student: s.into() }];
        for name in ["stage1", "/stage1/Add"] {
            assert_eq!(explicit(&request(name, "/layer1/Relu"), &teachers(), &students).unwrap()[0].teacher, "stage1");
        }
        let error = explicit(&request("stage9", "/layer1/Relu"), &teachers(), &students).unwrap_err();
        assert!(error.find_hint().unwrap().contains("stage"));
        let error = explicit(&request("stage1", "/layer1/Rel"), &teachers(), &students).unwrap_err();
        assert!(error.find_hint().unwrap().contains("/layer1/Relu"));
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        let mut teacher = teacher("deep", 3, [64, 8, 8]);
        teacher.stored = vec![(Statistic::Gram, 8320), (Statistic::Mean, 256)];
        let read = |size: usize, text: &str| Pair::new(&teacher, &student("s", 3, [32, size, size], true)).read(&text.parse().unwrap());
        assert_eq!(read(8, "nst").unwrap(), [Statistic::Gram]);
        assert_eq!(read(16, "nst-linear").unwrap(), [Statistic::Mean]);
        let error = read(8, "nst-gauss").unwrap_err().to_string();
        assert_eq!(error, "criterion nst-gauss: tap deep: expected features, found gram + mean at 8x8");
        let error = read(4, "nst:constant=1").unwrap_err().to_string();
        assert!(error.contains("expected gram + mean or features at 4x4 or smaller") && error.ends_with("found gram + mean at 8x8"), "{error}");
    }
}
