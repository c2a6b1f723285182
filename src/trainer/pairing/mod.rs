//! Pairs the teacher's taps with the student's tensors.

mod taps;

pub use taps::{
    StudentTap, TeacherTap, student_maps, student_vectors, teacher_maps, teacher_vectors,
};

use crate::cache::Manifest;
use crate::criterion::{Pairs, Subject, needs};
use crate::error::{Error, Result};
use crate::onnx::tap::{Role, Tap};
use crate::recipe::{CriterionRecipe, PairRecipe};
use crate::statistic::{LOGITS, Statistic};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use taps::{row_shape, student_logits, student_whole, teacher_logits, teacher_taps};

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
    /// Whether the student's map has its channels last, `[batch, height, width, channels]`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub student_channels_last: bool,
}

impl Pair {
    fn new(teacher: &TeacherTap, student: &StudentTap) -> Self {
        Self {
            teacher: teacher.alias.clone(),
            teacher_shape: teacher.shape.clone(),
            teacher_stored: teacher.stored.clone(),
            student: student.tensor.clone(),
            student_shape: student.shape.clone(),
            student_channels_last: student.channels_last,
        }
    }

    /// The student's tensor with the axes of [`Pair::student_shape`] behind the batch.
    ///
    /// # Errors
    /// When it has another shape than the pair was made of.
    pub(super) fn of_student(&self, value: &Tensor) -> Result<Tensor> {
        if self.student_channels_last {
            return Ok(value.permute((0, 3, 1, 2))?.contiguous()?);
        }
        if value.rank() == self.student_shape.len() + 1 {
            return Ok(value.clone());
        }
        Ok(value.reshape([&[value.dim(0)?], self.student_shape.as_slice()].concat())?)
    }

    /// The gradient of [`Pair::of_student`]'s tensor, with the axes of the student's.
    ///
    /// # Errors
    /// When it has another shape than the pair was made of.
    pub(super) fn to_student(&self, gradient: &Tensor, shape: &[usize]) -> Result<Tensor> {
        if self.student_channels_last {
            return Ok(gradient.permute((0, 2, 3, 1))?.contiguous()?);
        }
        Ok(gradient.reshape(shape)?)
    }

    /// Whether the teacher's side is its class logits, which are no tap.
    #[must_use]
    pub fn is_logits(&self) -> bool {
        self.teacher == LOGITS && self.teacher_stored.is_empty()
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

/// Whether two outputs may belong together.
type Rule<'a> = &'a dyn Fn(&TeacherTap, &StudentTap) -> bool;

/// The taps from which pairs are formed.
#[derive(Debug, Clone)]
pub struct Taps {
    /// The maps in the cache.
    pub teacher_maps: Vec<TeacherTap>,
    /// What the cache holds whole: volumes, tokens of no image, outputs of any other form.
    pub teacher_whole: Vec<TeacherTap>,
    /// The vectors in the cache.
    pub teacher_vectors: Vec<TeacherTap>,
    /// The teacher's class logits as a tap of the name `logits`.
    pub teacher_logits: Option<TeacherTap>,
    /// The student's maps.
    pub student_maps: Vec<StudentTap>,
    /// The student's vectors.
    pub student_vectors: Vec<StudentTap>,
    /// The student's tensors of any other form.
    pub student_whole: Vec<StudentTap>,
    /// The tensor of the student's class logits.
    pub student_logits: Option<StudentTap>,
    /// The number of classes of the teacher's and the student's logits; `None` for logits that are
    /// missing.
    pub classes: [Option<usize>; 2],
    /// Whether the teacher's logits are for different classes from the labels.
    pub other_classes: bool,
    /// How many classes the cache holds of the teacher's logits, if they are sparse.
    pub sparse_logits: Option<usize>,
}

impl Taps {
    /// The taps of a cache and a student, each in its own order.
    #[must_use]
    pub fn new(manifest: &Manifest, student: &[Tap]) -> Self {
        Self {
            teacher_maps: teacher_maps(manifest),
            teacher_whole: teacher_taps(manifest, &[Role::Volume, Role::Values], |alias| {
                row_shape(manifest, alias)
            }),
            teacher_vectors: teacher_vectors(manifest),
            teacher_logits: teacher_logits(manifest),
            student_maps: student_maps(student),
            student_vectors: student_vectors(student),
            student_whole: student_whole(student),
            student_logits: student_logits(student),
            classes: [
                teacher_logits(manifest).and_then(|tap| tap.shape.last().copied()),
                student_logits(student).and_then(|tap| tap.shape.last().copied()),
            ],
            other_classes: manifest.logits.as_ref().is_some_and(|logits| logits.other_classes),
            sparse_logits: manifest.top().map(|top| top.k),
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
        if matches!(subject, Subject::Tensors | Subject::Logits) && !recipe.pairs.is_empty() {
            let teacher = self.teacher_tensors().cloned().collect::<Vec<_>>();
            let student = self.student_tensors().cloned().collect::<Vec<_>>();
            let pairs = explicit(&recipe.pairs, &teacher, &student)?;
            pairs.iter().try_for_each(|pair| check_ranks(recipe, pair))?;
            self.refuse_sparse_logits(recipe, &pairs)?;
            if spec.labeled && pairs.iter().any(Pair::is_logits) {
                self.check_no_positions(&format!("criterion {}", recipe.name()))?;
            }
            return Ok((pairs, Vec::new()));
        }
        self.refuse_whole(recipe)?;
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
            Subject::Logits => {
                let who = format!("criterion {}", recipe.name());
                self.check_classes(&who)?;
                if spec.labeled {
                    self.check_no_positions(&who)?;
                }
                Ok((Vec::new(), Vec::new()))
            }
            Subject::Tensors => {
                let (pairs, left) = self.suggest_tensors(recipe)?;
                self.refuse_sparse_logits(recipe, &pairs)?;
                Ok((pairs, left))
            }
            Subject::Vectors => Ok((
                vec![self.suggest_vector(&format!("criterion {}", recipe.name()))?],
                Vec::new(),
            )),
            Subject::Maps => {
                let (mut pairs, left) = self.suggest_maps(recipe)?;
                match spec.pairs {
                    Pairs::All | Pairs::AllAndVector | Pairs::ClassLogits => {}
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
                    _ => {}
                }
                Ok((pairs, left))
            }
        }
    }

    /// The pairs of maps by size if that pairs the deepest ones, else by depth from the end, as far
    /// as the cache can serve such pairs.
    fn suggest_maps(&self, recipe: &CriterionRecipe) -> Result<(Vec<Pair>, Vec<String>)> {
        let who = format!("criterion {}", recipe.name());
        if self.teacher_maps.is_empty() {
            return Err(Error::input(format!("{who}: expected maps in the cache, found none"))
                .hint(
                    "extract again with --tap TENSOR: nst-cache inspect TEACHER.onnx marks some",
                ));
        }
        let by_size = suggest(&who, &self.teacher_maps, &self.student_maps);
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

    /// Everything that the cache holds of the teacher, the class logits as a vector.
    fn teacher_tensors(&self) -> impl Iterator<Item = &TeacherTap> {
        let taps = self.teacher_vectors.iter().chain(&self.teacher_maps);
        taps.chain(&self.teacher_whole).chain(&self.teacher_logits)
    }

    /// Every tensor of the student, the class logits as a vector.
    fn student_tensors(&self) -> impl Iterator<Item = &StudentTap> {
        let others = self.student_vectors.iter().chain(&self.student_maps);
        others.chain(&self.student_whole).chain(&self.student_logits)
    }

    /// The pairs of a criterion of any tensors: the outputs that belong together. A teacher of
    /// which no output is kept gives its last vector, or else its deepest map.
    fn suggest_tensors(&self, recipe: &CriterionRecipe) -> Result<(Vec<Pair>, Vec<String>)> {
        let (mut pairs, left) = self.match_outputs();
        if recipe.method.spec().pairs == Pairs::ClassLogits && pairs.iter().any(Pair::is_logits) {
            pairs.retain(Pair::is_logits);
        }
        if !pairs.is_empty() {
            return Ok((pairs, left));
        }
        if self.teacher_tensors().any(|tap| tap.output) {
            return Err(self.nothing_in_common(recipe.name()));
        }
        match self.suggest_vector(recipe.name()) {
            Ok(pair) => Ok((vec![pair], Vec::new())),
            Err(_) if !self.teacher_maps.is_empty() => {
                let (pairs, left) = self.suggest_maps(recipe)?;
                Ok((pairs.into_iter().next_back().into_iter().collect(), left))
            }
            Err(_) => Err(self.nothing_in_common(recipe.name())),
        }
    }

    /// The outputs of both that belong together.
    #[must_use]
    pub fn outputs(&self) -> Vec<Pair> {
        self.match_outputs().0
    }

    /// The student's outputs: the class logits, and not what a softmax makes of them.
    fn student_outputs(&self) -> Vec<&StudentTap> {
        let logits = self.student_logits.as_ref();
        let is_behind = |s: &StudentTap| {
            logits.is_some_and(|l| !l.output && l.tensor != s.tensor && l.shape == s.shape)
        };
        let is_logits = |s: &StudentTap| logits.is_some_and(|l| l.tensor == s.tensor);
        self.student_tensors().filter(|s| is_logits(s) || (s.output && !is_behind(s))).collect()
    }

    /// Pairs outputs with outputs: class logits with class logits, else by name, by shape, or by
    /// rank where one alone has it. The second value names the unpaired ones.
    fn match_outputs(&self) -> (Vec<Pair>, Vec<String>) {
        let teachers: Vec<&TeacherTap> = self.teacher_tensors().filter(|t| t.output).collect();
        let mut students = self.student_outputs();
        let (mut pairs, mut left) = (Vec::new(), Vec::new());
        let of_teacher = |t: &TeacherTap| t.alias == LOGITS && t.stored.is_empty();
        let of_student = |s: &StudentTap| {
            self.student_logits.as_ref().is_some_and(|logits| logits.tensor == s.tensor)
        };
        let same_name = |t: &TeacherTap, s: &StudentTap| {
            t.shape.len() == s.shape.len() && [&t.tensor, &t.alias].contains(&&s.tensor)
        };
        let rules: [Rule<'_>; 4] = [
            &|t, s| of_teacher(t) && of_student(s) && t.shape == s.shape,
            &same_name,
            &|t, s| t.shape == s.shape,
            &|t, s| t.shape.len() == s.shape.len() && !of_teacher(t) && !of_student(s),
        ];
        let mut open = teachers.clone();
        for fits in rules {
            let one = |t: &TeacherTap, open: &[&TeacherTap], students: &[&StudentTap]| {
                let mut found = students.iter().enumerate().filter(|(_, s)| fits(t, s));
                let (at, student) = found.next()?;
                let rivals = open.iter().filter(|other| fits(other, student)).count();
                (found.next().is_none() && rivals == 1).then_some(at)
            };
            for teacher in open.clone() {
                if let Some(at) = one(teacher, &open, &students) {
                    pairs.push(Pair::new(teacher, students.remove(at)));
                    open.retain(|other| other.alias != teacher.alias);
                }
            }
        }
        pairs.sort_by_key(|pair| teachers.iter().position(|t| t.alias == pair.teacher));
        left.extend(open.iter().map(|t| {
            format!(
                "teacher's output {} {}: no such output of the student alone",
                t.alias,
                size(&t.shape)
            )
        }));
        left.extend(students.iter().map(|s| {
            let shape = size(&s.shape);
            format!("student's output {} {shape}: no such output in the cache alone", s.tensor)
        }));
        (pairs, left)
    }

    /// No tensors can be paired; lists them.
    fn nothing_in_common(&self, who: &str) -> Error {
        let list = |names: Vec<String>| {
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let outputs = self.student_outputs().into_iter();
        Error::input(format!(
            "criterion {who}: expected tensors that can be compared, found {} in the cache and the \
             student's outputs {}",
            list(
                self.teacher_tensors().map(|t| format!("{} {}", t.alias, size(&t.shape))).collect()
            ),
            list(outputs.map(|s| format!("{} {}", s.tensor, size(&s.shape))).collect()),
        ))
        .hint(format!("name a pair: --criterion '{who}:pair=TEACHER>STUDENT'"))
    }

    /// Rejects a criterion for which only tensors of another form are available.
    fn refuse_whole(&self, recipe: &CriterionRecipe) -> Result<()> {
        let named = |tap: &&TeacherTap| {
            recipe.pairs.iter().any(|pair| pair.teacher == tap.alias || pair.teacher == tap.tensor)
        };
        let alone = |_: &&TeacherTap| {
            recipe.pairs.is_empty()
                && recipe.method.spec().subject == Subject::Maps
                && self.teacher_maps.is_empty()
        };
        match self.teacher_whole.iter().find(|tap| named(tap) || alone(tap)) {
            Some(tap) => Err(Error::input(format!(
                "criterion {}: expected a map or a vector of the teacher, found {} {}",
                recipe.name(),
                tap.alias,
                size(&tap.shape)
            ))),
            None => Ok(()),
        }
    }

    /// Rejects a criterion of any tensors that would read sparse logits.
    fn refuse_sparse_logits(&self, recipe: &CriterionRecipe, pairs: &[Pair]) -> Result<()> {
        let reads = pairs.iter().any(Pair::is_logits);
        if recipe.method.spec().subject == Subject::Tensors && reads {
            return self.check_dense_logits(&format!("criterion {}", recipe.name()));
        }
        Ok(())
    }

    /// Checks that the cache has the logits of all classes, as `who` requires.
    ///
    /// # Errors
    /// When they are sparse.
    pub fn check_dense_logits(&self, who: &str) -> Result<()> {
        match (self.sparse_logits, self.classes) {
            (Some(k), [Some(classes), _]) => Err(Error::input(format!(
                "{who}: expected the teacher's logits of all {classes} classes, found the {k} \
                 largest in the cache"
            ))
            .hint(
                "extract again with --logits-keep all and another -o; kd, lskd, dkd and dist \
                 compare the largest",
            )),
            _ => Ok(()),
        }
    }

    /// Checks that the teacher's logits are of a sample, as `who` requires.
    ///
    /// # Errors
    /// When each position has some.
    pub fn check_no_positions(&self, who: &str) -> Result<()> {
        match self.teacher_logits.as_ref().map(|tap| tap.shape.as_slice()) {
            Some(row @ [_, _]) => Err(Error::input(format!(
                "{who}: expected the teacher's logits [classes] of each sample, found {}",
                size(row)
            ))),
            _ => Ok(()),
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

    /// The embeddings that both give, else the vectors before the classifiers; `who` requires them.
    ///
    /// # Errors
    /// When either side has none.
    pub fn suggest_vector(&self, who: &str) -> Result<Pair> {
        let outputs = self.match_outputs().0.into_iter();
        let mut vectors = outputs.filter(|pair| pair.teacher_shape.len() == 1 && !pair.is_logits());
        if let Some(pair) = vectors.next_back() {
            return Ok(pair);
        }
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
pub fn suggest(
    who: &str,
    teacher: &[TeacherTap],
    student: &[StudentTap],
) -> Result<(Vec<Pair>, Vec<String>)> {
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
            "{who}: expected maps of one size, found {} of the teacher and {} of the student",
            list(teacher.iter().map(|t| format!("{} {}", t.alias, size(&t.shape))).collect()),
            list(
                student
                    .iter()
                    .filter(|s| s.suggested)
                    .map(|s| format!("{} {}", s.tensor, size(&s.shape)))
                    .collect()
            ),
        ))
        .hint(
            "name pairs, of which the larger map is pooled: --criterion \
               'METHOD:pair=TEACHER>STUDENT'",
        ));
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

/// Rejects a pair of tensors with different numbers of axes, or of logits that a criterion does not
/// take.
fn check_ranks(recipe: &CriterionRecipe, pair: &Pair) -> Result<()> {
    let (who, spec) = (recipe.name(), recipe.method.spec());
    let most = if spec.labeled { 1 } else { 2 };
    if spec.subject == Subject::Logits && !spec.dense && pair.teacher_shape.len() > most {
        return Err(Error::input(format!(
            "criterion {who}: expected logits [batch, classes], found {} {} of the teacher",
            pair.teacher,
            size(&pair.teacher_shape)
        ))
        .hint("kd compares logits at every position"));
    }
    if pair.teacher_shape.len() == pair.student_shape.len() {
        return Ok(());
    }
    Err(Error::input(format!(
        "criterion {who}: expected tensors with equally many axes, found {} {} of the teacher and \
         {} {} of the student",
        pair.teacher,
        size(&pair.teacher_shape),
        pair.student,
        size(&pair.student_shape)
    ))
    .hint("name another pair: pair=TEACHER>STUDENT"))
}

fn size(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let mut near: Vec<&str> = known.collect();
    near.sort_by(|a, b| strsim::jaro_winkler(b, name).total_cmp(&strsim::jaro_winkler(a, name)));
    near.dedup();
    near.truncate(3);
    let error = Error::input(format!("{what} `{name}`: no such tensor"));
    if near.is_empty() {
        error.hint("there are none: extract again with --tap TENSOR")
    } else {
        error.hint(format!("nearest: {}", near.join(", ")))
    }
}

#[cfg(test)]
mod tests;
