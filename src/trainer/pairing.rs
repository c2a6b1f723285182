//! Pairs the teacher's taps with the student's tensors.

use crate::array::Layout;
use crate::cache::Manifest;
use crate::criterion::{Pairs, Subject, needs};
use crate::error::{Error, Result};
use crate::onnx::tap::{Role, Tap};
use crate::recipe::{CriterionRecipe, PairRecipe};
use crate::statistic::Statistic;
use serde::{Deserialize, Serialize};

/// A tap of the teacher in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeacherTap {
    /// Its name in the cache.
    pub alias: String,
    /// The ONNX tensor.
    pub tensor: String,
    /// Its spatial stage.
    pub stage: Option<usize>,
    /// Channels, height and width of a map; the width of a vector.
    pub shape: Vec<usize>,
    /// The statistics that the cache holds of it, with the bytes of a decoded row.
    pub stored: Vec<(Statistic, usize)>,
}

/// A tensor of the student.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudentTap {
    /// The tensor's name.
    pub tensor: String,
    /// Its spatial stage.
    pub stage: Option<usize>,
    /// Channels, height and width of a map; the width of a vector.
    pub shape: Vec<usize>,
    /// Whether it is the last map of its stage, or the vector before the classifier.
    pub suggested: bool,
}

/// Two tensors to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Alias of the teacher's tap in the cache.
    pub teacher: String,
    /// Its channels, height and width, or the width of a vector.
    pub teacher_shape: Vec<usize>,
    /// The statistics that the cache holds of it, with the bytes of a decoded row.
    #[serde(default)]
    pub teacher_stored: Vec<(Statistic, usize)>,
    /// The student's tensor.
    pub student: String,
    /// Its channels, height and width, or the width of a vector.
    pub student_shape: Vec<usize>,
}

impl Pair {
    fn new(teacher: &TeacherTap, student: &StudentTap) -> Self {
        Self {
            teacher: teacher.alias.clone(),
            teacher_shape: teacher.shape.clone(),
            teacher_stored: teacher.stored.clone(),
            student: student.tensor.clone(),
            student_shape: student.shape.clone(),
        }
    }

    /// The statistics of the teacher's tap from which a criterion is computed: for a map, those
    /// with the fewest bytes that work for the criterion and the student's size.
    ///
    /// # Errors
    /// When the cache holds none; names the criterion, the tap and what is stored.
    pub fn read(&self, criterion: &CriterionRecipe) -> Result<Vec<Statistic>> {
        let ways = criterion.method.ways();
        let (&[_, height, width], &[_, h, w], false) =
            (self.teacher_shape.as_slice(), self.student_shape.as_slice(), ways.is_empty())
        else {
            return Ok(vec![Statistic::Features]);
        };
        needs::choose(&criterion.method, &self.teacher_stored, [height, width], [h, w]).ok_or_else(
            || {
                let names = |list: &[Statistic]| {
                    list.iter().map(|s| s.name()).collect::<Vec<_>>().join(" + ")
                };
                let there: Vec<Statistic> =
                    self.teacher_stored.iter().map(|(statistic, _)| *statistic).collect();
                let ways: Vec<String> = ways.iter().map(|way| names(way)).collect();
                let small = if h < height || w < width {
                    format!(
                        " at {}x{} or smaller (the student's size: pooling precedes the statistic)",
                        h.min(height),
                        w.min(width)
                    )
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
            },
        )
    }
}

/// The taps from which pairs are formed.
#[derive(Debug, Clone)]
pub struct Taps {
    /// The maps in the cache.
    pub teacher_maps: Vec<TeacherTap>,
    /// The volumes in the cache, with their sizes: no criterion reads them.
    pub teacher_volumes: Vec<TeacherTap>,
    /// The vectors in the cache.
    pub teacher_vectors: Vec<TeacherTap>,
    /// The student's maps.
    pub student_maps: Vec<StudentTap>,
    /// The student's vectors.
    pub student_vectors: Vec<StudentTap>,
    /// The number of classes of the teacher's and the student's logits; `None` for logits that are
    /// missing.
    pub classes: [Option<usize>; 2],
    /// Whether the teacher's logits are for different classes from the labels.
    pub other_classes: bool,
}

impl Taps {
    /// The taps of a cache and a student, each in its own order.
    #[must_use]
    pub fn new(manifest: &Manifest, student: &[Tap]) -> Self {
        Self {
            teacher_maps: teacher_maps(manifest),
            teacher_volumes: teacher_taps(manifest, Role::Volume, |alias| {
                row_shape(manifest, alias)
            }),
            teacher_vectors: teacher_vectors(manifest),
            student_maps: student_maps(student),
            student_vectors: student_vectors(student),
            classes: [
                manifest
                    .view_arrays
                    .iter()
                    .find(|a| a.path == "logits")
                    .and_then(|a| a.row_shape.last().copied()),
                student
                    .iter()
                    .find(|tap| tap.role == Role::Logits)
                    .and_then(|tap| tap.shape.last().copied().flatten()),
            ],
            other_classes: manifest.logits.is_some_and(|logits| logits.other_classes),
        }
    }

    /// The pairs of a criterion: those that its recipe names, else those suggested for its method.
    /// The second value names the unpaired taps.
    ///
    /// # Errors
    /// When a name is unknown, or no pair can be suggested.
    pub fn pairs(&self, recipe: &CriterionRecipe) -> Result<(Vec<Pair>, Vec<String>)> {
        let spec = recipe.method.spec();
        let with_vector = spec.pairs.has_vector();
        let subject = spec.subject;
        self.refuse_volumes(recipe)?;
        if !recipe.pairs.is_empty() {
            let both = |first: &[TeacherTap], then: &[TeacherTap]| [first, then].concat();
            let (teacher, student) = match subject {
                Subject::Maps if !with_vector => {
                    (self.teacher_maps.clone(), self.student_maps.clone())
                }
                _ => (
                    both(&self.teacher_vectors, &self.teacher_maps),
                    [&self.student_vectors[..], &self.student_maps].concat(),
                ),
            };
            return Ok((explicit(&recipe.pairs, &teacher, &student)?, Vec::new()));
        }
        match subject {
            Subject::Labels => Ok((Vec::new(), Vec::new())),
            Subject::Logits => self
                .check_classes(&format!("criterion {}", recipe.name()))
                .map(|()| (Vec::new(), Vec::new())),
            Subject::Vectors | Subject::Tensors => Ok((
                vec![self.suggest_vector(&format!("criterion {}", recipe.name()))?],
                Vec::new(),
            )),
            Subject::Maps => {
                let (mut pairs, left) = self.suggest_maps(recipe)?;
                match spec.pairs {
                    Pairs::All | Pairs::AllAndVector => {}
                    Pairs::Deepest | Pairs::VectorAndDeepest => {
                        drop(pairs.drain(..pairs.len() - 1));
                    }
                    Pairs::Middle => pairs = vec![pairs.swap_remove((pairs.len() - 1) / 2)],
                }
                match spec.pairs {
                    Pairs::AllAndVector => pairs.extend(self.suggest_vector(recipe.name()).ok()),
                    Pairs::VectorAndDeepest => {
                        let who = format!("criterion {}", recipe.name());
                        pairs.insert(0, self.suggest_vector(&who)?);
                    }
                    Pairs::All | Pairs::Middle | Pairs::Deepest => {}
                }
                Ok((pairs, left))
            }
        }
    }

    /// The pairs of maps by size if that pairs the deepest ones, else by depth from the end, as far
    /// as the cache can serve such pairs.
    fn suggest_maps(&self, recipe: &CriterionRecipe) -> Result<(Vec<Pair>, Vec<String>)> {
        let by_size = suggest(&self.teacher_maps, &self.student_maps);
        let (teachers, students) = deepest_first(&self.teacher_maps, &self.student_maps);
        let (Some(teacher), Some(student)) = (teachers.first(), students.first()) else {
            return by_size;
        };
        let meets = |pair: &Pair| pair.teacher == teacher.alias && pair.student == student.tensor;
        if by_size.as_ref().is_ok_and(|(pairs, _)| pairs.iter().any(meets)) {
            return by_size;
        }
        let mut pairs: Vec<Pair> =
            teachers.iter().zip(&students).map(|(t, s)| Pair::new(t, s)).collect();
        pairs.reverse();
        let ends = format!(
            "the deepest maps differ in size, {} {} of the teacher and {} {} of the student",
            teacher.alias,
            size(&teacher.shape),
            student.tensor,
            size(&student.shape)
        );
        if pairs.iter().all(|pair| pair.read(recipe).is_ok()) {
            let note = format!("{ends}: maps are paired by depth, the larger of two is pooled");
            return Ok((pairs, vec![note]));
        }
        let (pairs, mut left) = by_size?;
        let [height, width] = [student.shape[1], student.shape[2]];
        left.push(format!(
            "{ends}, and the cache has nothing of that size: extract with --tap \
             '{}@{height}x{width}' to distill there",
            teacher.tensor
        ));
        Ok((pairs, left))
    }

    /// Rejects a criterion for which only volumes are available.
    fn refuse_volumes(&self, recipe: &CriterionRecipe) -> Result<()> {
        let named = |tap: &&TeacherTap| {
            recipe.pairs.iter().any(|pair| pair.teacher == tap.alias || pair.teacher == tap.tensor)
        };
        let alone = |_: &&TeacherTap| {
            recipe.pairs.is_empty()
                && recipe.method.spec().subject == Subject::Maps
                && self.teacher_maps.is_empty()
        };
        match self.teacher_volumes.iter().find(|tap| named(tap) || alone(tap)) {
            Some(tap) => Err(Error::input(format!(
                "criterion {}: expected a map or a vector of the teacher, found the volume {} {}",
                recipe.name(),
                tap.alias,
                size(&tap.shape)
            ))),
            None => Ok(()),
        }
    }

    /// Checks that logits can be compared, as `who` requires.
    ///
    /// # Errors
    /// When the cache has none, or the classes differ.
    pub fn check_classes(&self, who: &str) -> Result<()> {
        match self.classes {
            [None, _] => Err(Error::input(format!(
                "{who}: expected the teacher's logits in the cache, found none"
            ))
            .hint("it needs a teacher that is a classifier: extract again with --logits TENSOR")),
            [Some(teacher), _] if self.other_classes => Err(Error::input(format!(
                "{who}: expected the teacher's logits to tell the data's classes, found {teacher} \
                 others in the cache"
            ))
            .hint(
                "extract again with --classes FILE, which names the teacher's classes in the \
                 order of its logits, or leave the logits out of the loss",
            )),
            [Some(teacher), Some(student)] if teacher != student => Err(Error::input(format!(
                "{who}: expected as many classes of both, found {teacher} of the teacher and \
                 {student} of the student"
            ))
            .hint("train a student of the teacher's classes")),
            _ => Ok(()),
        }
    }

    /// The vectors before the classifiers; `who` requires them.
    ///
    /// # Errors
    /// When either side has none.
    pub fn suggest_vector(&self, who: &str) -> Result<Pair> {
        let teacher = self.teacher_vectors.last().ok_or_else(|| {
            Error::input(format!(
                "{who}: expected the teacher's vector before the classifier in the cache, found \
                 none"
            ))
            .hint("extract again with --tap TENSOR: nst-cache inspect TEACHER.onnx marks it")
        })?;
        let student = self.student_vectors.iter().rfind(|s| s.suggested).ok_or_else(|| {
            Error::input(format!(
                "{who}: expected a vector before the student's classifier, found none"
            ))
            .hint(format!("name one: --criterion '{who}:pair={}>TENSOR'", teacher.alias))
        })?;
        Ok(Pair::new(teacher, student))
    }
}

/// The maps of which a cache holds the features or statistics, in its order.
#[must_use]
pub fn teacher_maps(manifest: &Manifest) -> Vec<TeacherTap> {
    teacher_taps(manifest, Role::Map, |alias| Some(manifest.map(alias)?.sizes().to_vec()))
}

/// The vectors in a cache, in its order.
#[must_use]
pub fn teacher_vectors(manifest: &Manifest) -> Vec<TeacherTap> {
    teacher_taps(manifest, Role::Vector, |alias| row_shape(manifest, alias))
}

/// The row shape of a tap's first array.
fn row_shape(manifest: &Manifest, alias: &str) -> Option<Vec<usize>> {
    manifest.statistics(alias).next().map(|(_, spec)| spec.row_shape.clone())
}

/// The taps of a role, with their shapes and stored statistics.
fn teacher_taps(
    manifest: &Manifest,
    role: Role,
    shape: impl Fn(&str) -> Option<Vec<usize>>,
) -> Vec<TeacherTap> {
    let tap = |tap: &crate::cache::TapRecord| {
        let stored = manifest
            .statistics(&tap.alias)
            .map(|(statistic, spec)| (statistic, spec.row_bytes()))
            .collect();
        Some(TeacherTap {
            alias: tap.alias.clone(),
            tensor: tap.tensor.clone(),
            stage: tap.stage,
            shape: shape(&tap.alias)?,
            stored,
        })
    };
    manifest.taps.iter().filter(|tap| tap.role == role).filter_map(tap).collect()
}

/// The maps `[N, C, H, W]` among a student's taps, in graph order.
#[must_use]
pub fn student_maps(taps: &[Tap]) -> Vec<StudentTap> {
    student_taps(taps.iter().filter(|tap| tap.layout == Some(Layout::Nchw) && tap.shape.len() == 4))
}

/// The vectors `[N, C]` among a student's taps, in graph order.
#[must_use]
pub fn student_vectors(taps: &[Tap]) -> Vec<StudentTap> {
    student_taps(taps.iter().filter(|tap| tap.role == Role::Vector))
}

fn student_taps<'a>(taps: impl Iterator<Item = &'a Tap>) -> Vec<StudentTap> {
    let tap = |tap: &Tap| {
        let shape = tap.shape.get(1..)?.iter().copied().collect::<Option<_>>()?;
        Some(StudentTap {
            tensor: tap.tensor.clone(),
            stage: tap.stage,
            shape,
            suggested: tap.suggested,
        })
    };
    taps.filter_map(tap).collect()
}

/// The teacher's maps and the student's suggested ones, the deepest first.
fn deepest_first<'a>(
    teacher: &'a [TeacherTap],
    student: &'a [StudentTap],
) -> (Vec<&'a TeacherTap>, Vec<&'a StudentTap>) {
    let key = |stage: Option<usize>| std::cmp::Reverse(stage.unwrap_or(0));
    // among equal stages, later in the graph is deeper
    let mut teachers: Vec<&TeacherTap> = teacher.iter().rev().collect();
    let mut students: Vec<&StudentTap> = student.iter().rev().filter(|s| s.suggested).collect();
    teachers.sort_by_key(|t| key(t.stage));
    students.sort_by_key(|s| key(s.stage));
    (teachers, students)
}

/// Pairs the teacher's maps with the student's suggested ones by spatial size, from the deepest
/// stage up. The second value names the unpaired taps.
///
/// # Errors
/// When no pair has the same size.
pub fn suggest(teacher: &[TeacherTap], student: &[StudentTap]) -> Result<(Vec<Pair>, Vec<String>)> {
    let (teachers, mut students) = deepest_first(teacher, student);
    let (mut pairs, mut left) = (Vec::new(), Vec::new());
    for teacher in &teachers {
        match students.iter().position(|s| s.shape[1..] == teacher.shape[1..]) {
            Some(index) => pairs.push(Pair::new(teacher, students.remove(index))),
            None => left.push(format!(
                "teacher's {} {}: no map of that size in the student",
                teacher.alias,
                size(&teacher.shape)
            )),
        }
    }
    left.extend(students.iter().map(|s| {
        format!("student's {} {}: no map of that size in the cache", s.tensor, size(&s.shape))
    }));
    if pairs.is_empty() {
        let list = |names: Vec<String>| {
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        return Err(Error::input(format!(
            "taps: expected maps of one size, found teacher {} and student {}",
            list(teacher.iter().map(|t| format!("{} {}", t.alias, size(&t.shape))).collect()),
            list(
                student
                    .iter()
                    .filter(|s| s.suggested)
                    .map(|s| format!("{} {}", s.tensor, size(&s.shape)))
                    .collect()
            ),
        ))
        .hint("name pairs: --criterion 'nst:pair=TEACHER>STUDENT' pools the larger map"));
    }
    // shallowest first, as people read them
    pairs.reverse();
    Ok((pairs, left))
}

/// Resolves pairs named by the recipe: the teacher's by alias or tensor, the student's by tensor.
///
/// # Errors
/// When a name is unknown; lists the closest names.
pub fn explicit(
    requests: &[PairRecipe],
    teacher: &[TeacherTap],
    student: &[StudentTap],
) -> Result<Vec<Pair>> {
    let pair = |request: &PairRecipe| {
        let t = teacher
            .iter()
            .find(|t| t.alias == request.teacher)
            .or_else(|| teacher.iter().find(|t| t.tensor == request.teacher))
            .ok_or_else(|| {
                unknown(
                    "teacher's tap",
                    &request.teacher,
                    teacher.iter().flat_map(|t| [t.alias.as_str(), t.tensor.as_str()]),
                )
            })?;
        let s = student.iter().find(|s| s.tensor == request.student).ok_or_else(|| {
            unknown("student's tensor", &request.student, student.iter().map(|s| s.tensor.as_str()))
        })?;
        Ok(Pair::new(t, s))
    };
    requests.iter().map(pair).collect()
}

fn size(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let mut near: Vec<&str> = known.collect();
    near.sort_by(|a, b| strsim::jaro_winkler(b, name).total_cmp(&strsim::jaro_winkler(a, name)));
    near.dedup();
    near.truncate(3);
    let error = Error::input(format!("{what} `{name}`: no such map or vector"));
    if near.is_empty() {
        error.hint("there are none: extract again with --tap TENSOR")
    } else {
        error.hint(format!("nearest: {}", near.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teacher(alias: &str, stage: usize, shape: [usize; 3]) -> TeacherTap {
        TeacherTap {
            alias: alias.into(),
            tensor: format!("/{alias}/Add"),
            stage: Some(stage),
            shape: shape.to_vec(),
            stored: vec![(Statistic::Features, 2)],
        }
    }

    fn student(tensor: &str, stage: usize, shape: [usize; 3], suggested: bool) -> StudentTap {
        StudentTap { tensor: tensor.into(), stage: Some(stage), shape: shape.to_vec(), suggested }
    }

    fn teachers() -> Vec<TeacherTap> {
        vec![
            teacher("stage1", 1, [32, 28, 28]),
            teacher("stage2", 2, [64, 14, 14]),
            teacher("stage3", 3, [128, 7, 7]),
        ]
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
        let names: Vec<_> =
            pairs.iter().map(|p| (p.teacher.as_str(), p.student.as_str())).collect();
        assert_eq!(names, [("stage2", "b"), ("stage3", "c")]);
        assert_eq!(left.len(), 2);
        assert!(left[0].contains("stage1") && left[1].contains('d'));
    }

    #[test]
    fn the_deepest_maps_are_paired_by_depth_where_sizes_leave_them_over() {
        let mut taps = taps();
        taps.student_maps = vec![
            student("a", 1, [16, 14, 14], true),
            student("b", 2, [32, 7, 7], true),
            student("c", 3, [64, 4, 4], true),
        ];
        let recipe = |text: &str| text.parse::<CriterionRecipe>().unwrap();
        let (pairs, left) = taps.pairs(&recipe("at")).unwrap();
        let names: Vec<_> =
            pairs.iter().map(|p| (p.teacher.as_str(), p.student.as_str())).collect();
        assert_eq!(names, [("stage1", "a"), ("stage2", "b"), ("stage3", "c")]);
        assert!(left.len() == 1 && left[0].contains("paired by depth"), "{left:?}");
        // a Gram matrix cannot be pooled: pairing is by size, and the unpaired taps are reported
        for tap in &mut taps.teacher_maps {
            tap.stored = vec![(Statistic::Gram, 2)];
        }
        let (pairs, left) = taps.pairs(&recipe("nst")).unwrap();
        let names: Vec<_> =
            pairs.iter().map(|p| (p.teacher.as_str(), p.student.as_str())).collect();
        assert_eq!(names, [("stage2", "a"), ("stage3", "b")]);
        assert!(left.iter().any(|l| l.contains("--tap '/stage3/Add@4x4'")), "{left:?}");
    }

    #[test]
    fn nothing_in_common_is_an_error_with_a_way_out() {
        let error = suggest(&teachers(), &[student("x", 1, [8, 5, 5], true)]).unwrap_err();
        assert!(
            error.to_string().contains("stage3 128x7x7") && error.to_string().contains("x 8x5x5")
        );
        assert!(error.find_hint().unwrap().contains("pair="));
    }

    fn taps() -> Taps {
        let vector = |name: &str, width: usize, suggested| StudentTap {
            tensor: name.into(),
            stage: None,
            shape: vec![width],
            suggested,
        };
        Taps {
            other_classes: false,
            teacher_maps: teachers(),
            teacher_volumes: Vec::new(),
            teacher_vectors: vec![TeacherTap {
                alias: "pooled".into(),
                tensor: "/Flatten".into(),
                stage: None,
                shape: vec![128],
                stored: Vec::new(),
            }],
            student_maps: vec![
                student("a", 1, [8, 28, 28], true),
                student("b", 2, [16, 14, 14], true),
                student("c", 3, [32, 7, 7], true),
            ],
            student_vectors: vec![vector("flat", 32, true), vector("other", 32, false)],
            classes: [Some(10); 2],
        }
    }

    #[test]
    fn each_method_has_the_pairs_of_its_kind() {
        let of = |text: &str| {
            let (pairs, _) = taps().pairs(&text.parse().unwrap()).unwrap();
            pairs
                .iter()
                .map(|p| format!("{}>{}", p.teacher, p.student))
                .collect::<Vec<_>>()
                .join(" ")
        };
        for (text, expected) in [
            ("kd", ""),
            ("at", "stage1>a stage2>b stage3>c"),
            ("fitnet", "stage2>b"),
            ("sp", "stage3>c"),
            ("rkd", "pooled>flat"),
            ("rkd:pair=pooled>other", "pooled>other"),
            ("rkd:pair=stage3>c", "stage3>c"),
            ("reviewkd", "stage1>a stage2>b stage3>c pooled>flat"),
            ("reviewkd:pair=stage2>b,pair=pooled>flat", "stage2>b pooled>flat"),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_missing_vector_is_named_with_a_way_out() {
        let mut taps = taps();
        let crd = "crd".parse().unwrap();
        taps.student_vectors.remove(0);
        let error = taps.pairs(&crd).unwrap_err();
        assert!(
            error.to_string().contains("student's classifier")
                && error.find_hint().unwrap().contains("crd:pair=pooled>TENSOR")
        );
        taps.classes = [Some(100), Some(10)];
        assert!(
            taps.pairs(&"dkd".parse().unwrap())
                .unwrap_err()
                .to_string()
                .contains("found 100 of the teacher and 10")
        );
        taps.teacher_vectors.clear();
        let error = taps.pairs(&crd).unwrap_err();
        assert!(
            error.to_string().contains("in the cache")
                && error.find_hint().unwrap().contains("--tap")
        );
        assert!(taps.pairs(&"at:pair=pooled>c".parse().unwrap()).is_err());
    }

    #[test]
    fn a_volume_is_refused_where_it_would_be_read() {
        let mut taps = taps();
        let shape = vec![8, 4, 16, 16];
        taps.teacher_volumes = vec![TeacherTap {
            alias: "r1".into(),
            tensor: "r1".into(),
            stage: None,
            shape,
            stored: Vec::new(),
        }];
        taps.pairs(&"at".parse().unwrap()).unwrap();
        let refused =
            |taps: &Taps, text: &str| taps.pairs(&text.parse().unwrap()).unwrap_err().to_string();
        let expected = "criterion at: expected a map or a vector of the teacher, found the volume \
                        r1 8x4x16x16";
        assert_eq!(refused(&taps, "at:pair=r1>c"), expected);
        taps.teacher_maps.clear();
        assert_eq!(refused(&taps, "at"), expected);
        taps.pairs(&"rkd".parse().unwrap()).unwrap();
    }

    #[test]
    fn explicit_pairs_by_alias_or_tensor() {
        let students = [student("/layer1/Relu", 1, [16, 28, 28], false)];
        let request = |t: &str, s: &str| [PairRecipe { teacher: t.into(), student: s.into() }];
        for name in ["stage1", "/stage1/Add"] {
            assert_eq!(
                explicit(&request(name, "/layer1/Relu"), &teachers(), &students).unwrap()[0]
                    .teacher,
                "stage1"
            );
        }
        let error =
            explicit(&request("stage9", "/layer1/Relu"), &teachers(), &students).unwrap_err();
        assert!(error.find_hint().unwrap().contains("stage"));
        let error =
            explicit(&request("stage1", "/layer1/Rel"), &teachers(), &students).unwrap_err();
        assert!(error.find_hint().unwrap().contains("/layer1/Relu"));
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        let mut teacher = teacher("deep", 3, [64, 8, 8]);
        teacher.stored = vec![(Statistic::Gram, 8320), (Statistic::Mean, 256)];
        let read = |size: usize, text: &str| {
            Pair::new(&teacher, &student("s", 3, [32, size, size], true))
                .read(&text.parse().unwrap())
        };
        assert_eq!(read(8, "nst").unwrap(), [Statistic::Gram]);
        assert_eq!(read(16, "nst-linear").unwrap(), [Statistic::Mean]);
        let error = read(8, "nst-gauss").unwrap_err().to_string();
        assert_eq!(
            error,
            "criterion nst-gauss: tap deep: expected features, found gram + mean at 8x8"
        );
        let error = read(4, "nst:constant=1").unwrap_err().to_string();
        assert!(
            error.contains("expected gram + mean or features at 4x4 or smaller")
                && error.ends_with("found gram + mean at 8x8"),
            "{error}"
        );
    }
}
