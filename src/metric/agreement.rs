//! How far a student's output agrees with a teacher's of the same shape, over any number of
//! batches.

use super::percent;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;

/// How the values of an output are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading {
    /// As numbers.
    Values,
    /// As scores of classes along the channel axis, of which the largest decides.
    Classes,
    /// As class indices, such as those of an `ArgMax`.
    Indices,
    /// As independent scores along the channel axis, each a decision of its own: yes above the
    /// threshold of the student, of the teacher (0 for logits, 0.5 for probabilities).
    Labels([f32; 2]),
}

/// The vectors that a row of an output is made of: `[outer, channels, inner]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vectors {
    outer: usize,
    /// The length of a vector.
    pub channels: usize,
    inner: usize,
}

impl Vectors {
    /// The vectors of a row along its channel axis: the only axis longer than 1, if there is one;
    /// the last of two (`[tokens, channels]`), else the first (`[channels, height, width]`).
    #[must_use]
    pub fn of(row: &[usize]) -> Self {
        let mut long = (0..row.len()).filter(|&axis| row[axis] > 1);
        let axis = match (long.next(), long.next()) {
            (Some(axis), None) => axis,
            _ => usize::from(row.len() == 2),
        };
        Self::along(row, axis)
    }

    /// The vectors of a row along this axis of it; a row without axes is one vector of one value.
    #[must_use]
    pub fn along(row: &[usize], axis: usize) -> Self {
        let product = |axes: Option<&[usize]>| axes.unwrap_or_default().iter().product();
        Self {
            outer: product(row.get(..axis)),
            channels: row.get(axis).copied().unwrap_or(1),
            inner: product(row.get(axis + 1..)),
        }
    }

    /// Vectors of a row: 1, or the positions of a map.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.outer * self.inner
    }

    /// Values of a row.
    fn values(&self) -> usize {
        self.positions() * self.channels
    }
}

/// A count for each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sides {
    /// In the student's output.
    pub student: usize,
    /// In the teacher's output.
    pub teacher: usize,
}

impl Sides {
    fn count(&mut self, is: [bool; 2]) {
        self.student += usize::from(is[0]);
        self.teacher += usize::from(is[1]);
    }

    fn merge(&mut self, other: Self) {
        self.student += other.student;
        self.teacher += other.teacher;
    }

    /// Whether neither side has any.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What two outputs agree in. What is not finite on either side is left out, and counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgreementSummary {
    /// Samples that were compared.
    pub samples: usize,
    /// Mean cosine similarity of the vectors along the channel axis; `None` if there is none.
    pub cosine: Option<f64>,
    /// Vectors that this is the mean of.
    pub vectors: usize,
    /// Vectors of zeros, which have no direction and are left out of it.
    pub zero: Sides,
    /// Mean squared difference of the values.
    pub mse: Option<f64>,
    /// Largest absolute difference of two values.
    pub max_difference: Option<f64>,
    /// Values that these two are taken of.
    pub values: usize,
    /// Values that are NaN or infinite.
    pub not_finite: Sides,
    /// Agreement of the decisions, for an output that is read as classes or class indices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<ClassAgreement>,
    /// Agreement of the decisions, for an output that is read as independent labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelAgreement>,
}

/// Whether two outputs decide for the same classes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassAgreement {
    /// Percentage of samples, or of the positions of class maps, with the same class.
    pub top1: Option<f64>,
    /// Samples or positions that this is a share of.
    pub decisions: usize,
    /// Mean over classes of the intersection over the union of both class maps, in percent; `None`
    /// for outputs that are no maps.
    pub miou: Option<f64>,
    /// Classes that neither side decides for, left out of that mean; `None` for class indices,
    /// which do not tell how many classes there are, and for outputs that are no maps.
    pub absent: Option<usize>,
}

/// Whether two outputs make the same decision about each label.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelAgreement {
    /// Mean of `per_label` over labels that either side says yes to at least once.
    pub mean: Option<f64>,
    /// Labels that neither side ever says yes to, left out of that mean.
    pub without_positives: usize,
    /// For each label, the percentage of samples or positions with the same decision.
    pub per_label: Vec<Option<f64>>,
}

/// The agreement of two outputs, summed over batches.
///
/// ```
/// use nst_cache::metric::{Agreement, Reading, Vectors};
///
/// let mut agreement = Agreement::new(Vectors::of(&[2]), Reading::Classes);
/// agreement.add(&[1.0, 0.0, 0.0, 3.0], &[1.0, 0.0, 4.0, 0.0])?;
/// let summary = agreement.summary();
/// assert_eq!((summary.samples, summary.cosine), (2, Some(0.5)));
/// assert_eq!(summary.classes.and_then(|classes| classes.top1), Some(50.0));
/// # Ok::<(), nst_cache::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Agreement {
    vectors: Vectors,
    reading: Reading,
    sums: Sums,
}

impl Agreement {
    /// Nothing compared yet.
    #[must_use]
    pub fn new(vectors: Vectors, reading: Reading) -> Self {
        Self { vectors, reading, sums: Sums::default() }
    }

    /// Adds a batch.
    ///
    /// # Shapes
    /// Both: `[batch, outer, channels, inner]`.
    ///
    /// # Errors
    /// If one is not whole rows, or they differ in length.
    pub fn add(&mut self, student: &[f32], teacher: &[f32]) -> Result<()> {
        let row = self.vectors.values();
        if student.len() != teacher.len() || row == 0 || !student.len().is_multiple_of(row) {
            return Err(Error::input(format!(
                "outputs: expected rows of {row} values of both, found {} and {} values",
                student.len(),
                teacher.len()
            )));
        }
        let sums: Vec<Sums> = student
            .par_chunks(row)
            .zip(teacher.par_chunks(row))
            .map(|(student, teacher)| Sums::of(self.vectors, self.reading, student, teacher))
            .collect();
        // in the order of the rows, whichever thread was first
        for sums in &sums {
            self.sums.merge(sums);
        }
        Ok(())
    }

    /// The means so far.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2⁵²")]
    pub fn summary(&self) -> AgreementSummary {
        let sums = &self.sums;
        let mean = |sum: f64, count: usize| (count > 0).then(|| sum / count as f64);
        AgreementSummary {
            samples: sums.samples,
            cosine: mean(sums.cosine, sums.vectors),
            vectors: sums.vectors,
            zero: sums.zero,
            mse: mean(sums.squares, sums.values),
            max_difference: (sums.values > 0).then_some(sums.largest),
            values: sums.values,
            not_finite: sums.not_finite,
            classes: matches!(self.reading, Reading::Classes | Reading::Indices)
                .then(|| self.classes()),
            labels: matches!(self.reading, Reading::Labels(_)).then(|| self.labels()),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "counts far below 2⁵²")]
    fn classes(&self) -> ClassAgreement {
        let sums = &self.sums;
        let share = |class: &ClassCount| {
            let union = class.student + class.teacher - class.both;
            100.0 * class.both as f64 / union as f64
        };
        let is_map = self.vectors.positions() > 1;
        let found = sums.classes.len();
        let total: f64 = sums.classes.values().map(share).sum();
        let is_counted = is_map && self.reading == Reading::Classes;
        ClassAgreement {
            top1: percent(sums.same, sums.decisions),
            decisions: sums.decisions,
            miou: (is_map && found > 0).then(|| total / found as f64),
            absent: is_counted.then(|| self.vectors.channels.saturating_sub(found)),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "counts far below 2⁵²")]
    fn labels(&self) -> LabelAgreement {
        let labels = &self.sums.labels;
        let share = |label: &LabelCount| percent(label.same, label.decisions);
        let with: Vec<f64> =
            labels.iter().filter(|label| label.has_positive).filter_map(share).collect();
        LabelAgreement {
            mean: (!with.is_empty()).then(|| with.iter().sum::<f64>() / with.len() as f64),
            without_positives: labels.iter().filter(|label| !label.has_positive).count(),
            per_label: labels.iter().map(share).collect(),
        }
    }
}

/// How often a class is decided for.
#[derive(Debug, Clone, Copy, Default)]
struct ClassCount {
    student: usize,
    teacher: usize,
    both: usize,
}

/// The decisions about a label.
#[derive(Debug, Clone, Copy, Default)]
struct LabelCount {
    decisions: usize,
    same: usize,
    has_positive: bool,
}

#[derive(Debug, Clone, Default)]
struct Sums {
    samples: usize,
    cosine: f64,
    vectors: usize,
    zero: Sides,
    squares: f64,
    largest: f64,
    values: usize,
    not_finite: Sides,
    decisions: usize,
    same: usize,
    /// The classes that a side decides for.
    classes: BTreeMap<usize, ClassCount>,
    /// One for each channel, if these are labels.
    labels: Vec<LabelCount>,
}

/// Both vectors of a position.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Student with student, student with teacher, teacher with teacher.
    products: [f64; 3],
    is_finite: bool,
    /// The largest value of each side, at the lowest channel that has it.
    largest: [(f32, usize); 2],
}

const NOWHERE: Place =
    Place { products: [0.0; 3], is_finite: true, largest: [(f32::NEG_INFINITY, 0); 2] };

impl Place {
    fn add(&mut self, channel: usize, values: [f32; 2]) {
        let [s, t] = values.map(f64::from);
        self.products[0] += s * s;
        self.products[1] += s * t;
        self.products[2] += t * t;
        for (largest, value) in self.largest.iter_mut().zip(values) {
            if value > largest.0 {
                *largest = (value, channel);
            }
        }
    }
}

impl Sums {
    /// The sums of one row.
    fn of(vectors: Vectors, reading: Reading, student: &[f32], teacher: &[f32]) -> Self {
        let Vectors { channels, inner, .. } = vectors;
        let mut sums = Self { samples: 1, ..Self::default() };
        if let Reading::Labels(_) = reading {
            sums.labels = vec![LabelCount::default(); channels];
        }
        let mut places = vec![NOWHERE; inner];
        let maps = student.chunks(channels * inner).zip(teacher.chunks(channels * inner));
        for (student, teacher) in maps {
            places.fill(NOWHERE);
            let planes = student.chunks(inner).zip(teacher.chunks(inner)).enumerate();
            for (channel, (student, teacher)) in planes {
                for ((place, &s), &t) in places.iter_mut().zip(student).zip(teacher) {
                    if sums.value([s, t]) {
                        place.add(channel, [s, t]);
                        sums.label(channel, reading, [s, t]);
                    } else {
                        place.is_finite = false;
                    }
                }
            }
            places.iter().filter(|place| place.is_finite).for_each(|place| {
                sums.vector(place);
                sums.decision(reading, place);
            });
        }
        sums
    }

    /// Counts a pair of values; returns whether both are finite.
    fn value(&mut self, values: [f32; 2]) -> bool {
        let is_finite = values.map(f32::is_finite);
        if is_finite != [true; 2] {
            self.not_finite.count(is_finite.map(|is| !is));
            return false;
        }
        let difference = f64::from(values[0]) - f64::from(values[1]);
        self.values += 1;
        self.squares += difference * difference;
        self.largest = self.largest.max(difference.abs());
        true
    }

    fn label(&mut self, channel: usize, reading: Reading, values: [f32; 2]) {
        let (Reading::Labels(thresholds), Some(label)) = (reading, self.labels.get_mut(channel))
        else {
            return;
        };
        let [student, teacher] = [values[0] > thresholds[0], values[1] > thresholds[1]];
        label.decisions += 1;
        label.same += usize::from(student == teacher);
        label.has_positive |= student || teacher;
    }

    fn vector(&mut self, place: &Place) {
        let [ss, st, tt] = place.products;
        if ss == 0.0 || tt == 0.0 {
            self.zero.count([ss == 0.0, tt == 0.0]);
            return;
        }
        self.vectors += 1;
        self.cosine += st / (ss.sqrt() * tt.sqrt());
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "class indices are small integers"
    )]
    fn decision(&mut self, reading: Reading, place: &Place) {
        let [student, teacher] = match reading {
            Reading::Classes => place.largest.map(|(_, channel)| channel),
            Reading::Indices => place.largest.map(|(value, _)| value as usize),
            Reading::Values | Reading::Labels(_) => return,
        };
        self.decisions += 1;
        self.same += usize::from(student == teacher);
        self.classes.entry(student).or_default().student += 1;
        self.classes.entry(teacher).or_default().teacher += 1;
        if student == teacher {
            self.classes.entry(student).or_default().both += 1;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.cosine += other.cosine;
        self.vectors += other.vectors;
        self.zero.merge(other.zero);
        self.squares += other.squares;
        self.largest = self.largest.max(other.largest);
        self.values += other.values;
        self.not_finite.merge(other.not_finite);
        self.decisions += other.decisions;
        self.same += other.same;
        for (&class, count) in &other.classes {
            let sum = self.classes.entry(class).or_default();
            sum.student += count.student;
            sum.teacher += count.teacher;
            sum.both += count.both;
        }
        self.labels.resize(other.labels.len(), LabelCount::default());
        for (sum, count) in self.labels.iter_mut().zip(&other.labels) {
            sum.decisions += count.decisions;
            sum.same += count.same;
            sum.has_positive |= count.has_positive;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(
        vectors: Vectors,
        reading: Reading,
        student: &[f32],
        teacher: &[f32],
    ) -> AgreementSummary {
        let mut agreement = Agreement::new(vectors, reading);
        agreement.add(student, teacher).unwrap();
        agreement.summary()
    }

    fn near(found: Option<f64>, expected: f64) {
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-9), "{found:?} {expected}");
    }

    #[test]
    fn vectors_lie_along_the_channel_axis() {
        let vectors = |outer, channels, inner| Vectors { outer, channels, inner };
        for (row, expected) in [
            (&[][..], vectors(1, 1, 1)),
            (&[7], vectors(1, 7, 1)),
            (&[5, 7], vectors(5, 7, 1)),
            (&[7, 2, 3], vectors(1, 7, 6)),
            (&[7, 1, 1], vectors(1, 7, 1)),
            (&[7, 1], vectors(1, 7, 1)),
            (&[1, 7], vectors(1, 7, 1)),
            (&[1, 1], vectors(1, 1, 1)),
            (&[1, 2, 3], vectors(1, 1, 6)),
            (&[7, 2, 3, 4], vectors(1, 7, 24)),
        ] {
            assert_eq!(Vectors::of(row), expected, "{row:?}");
        }
        assert_eq!(Vectors::along(&[2, 3, 7], 2), vectors(6, 7, 1));
        assert_eq!(Vectors::along(&[2, 3, 7], 2).positions(), 6);
    }

    #[test]
    fn vectors_and_values_are_compared_in_any_layout() {
        // two positions, by hand: (3, 4) with (4, 3) is 24/25, (1, 0) with (1, 0) is 1
        let found = compared(
            Vectors::of(&[2, 2]),
            Reading::Values,
            &[3.0, 4.0, 1.0, 0.0],
            &[4.0, 3.0, 1.0, 0.0],
        );
        near(found.cosine, 0.98);
        near(found.mse, 0.5);
        near(found.max_difference, 1.0);
        assert_eq!((found.samples, found.vectors, found.values), (1, 2, 4));
        assert!(found.classes.is_none() && found.labels.is_none());
        // the same with the channels first, over positions [2, 1]
        let map = compared(
            Vectors::along(&[2, 2, 1], 0),
            Reading::Values,
            &[3.0, 1.0, 4.0, 0.0],
            &[4.0, 1.0, 3.0, 0.0],
        );
        assert_eq!(map, found);
    }

    #[test]
    fn what_is_not_finite_or_zero_is_counted_and_left_out() {
        let found = compared(
            Vectors::of(&[2]),
            Reading::Classes,
            &[f32::NAN, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0],
            &[1.0, f32::INFINITY, 0.0, 1.0, f32::NEG_INFINITY, 1.0, 0.0, 2.0],
        );
        assert_eq!(found.not_finite, Sides { student: 1, teacher: 2 });
        assert_eq!(found.zero, Sides { student: 1, teacher: 0 });
        assert_eq!((found.samples, found.vectors, found.values), (4, 1, 5));
        near(found.cosine, 1.0);
        // the differences 0 0−1 0−1, and none
        near(found.mse, 2.0 / 5.0);
        let classes = found.classes.unwrap();
        // of two rows alone: (0, 0) with (0, 1), and the equal ones
        assert_eq!(classes.decisions, 2);
        near(classes.top1, 50.0);
        let none = compared(Vectors::of(&[1]), Reading::Values, &[f32::NAN], &[1.0]);
        assert_eq!((none.cosine, none.mse, none.max_difference), (None, None, None));
    }

    #[test]
    fn class_maps_overlap() {
        // four classes over 1×4 positions, one-hot: the student has 0 0 1 1, the teacher 0 1 1 3
        let one_hot = |classes: [usize; 4]| -> Vec<f32> {
            (0..4).flat_map(|class| classes.map(|at| if at == class { 1.0 } else { 0.0 })).collect()
        };
        let found = compared(
            Vectors::of(&[4, 1, 4]),
            Reading::Classes,
            &one_hot([0, 0, 1, 1]),
            &one_hot([0, 1, 1, 3]),
        );
        let classes = found.classes.unwrap();
        near(classes.top1, 50.0);
        // class 0: 1 of 2, class 1: 1 of 3, class 3: 0 of 1; class 2 is nowhere
        near(classes.miou, 100.0 * (1.0 / 2.0 + 1.0 / 3.0) / 3.0);
        assert_eq!((classes.decisions, classes.absent), (4, Some(1)));
        // the same as indices
        let vectors = Vectors { outer: 1, channels: 1, inner: 4 };
        let student = &[0.0, 0.0, 1.0, 1.0];
        let indices = compared(vectors, Reading::Indices, student, &[0.0, 1.0, 1.0, 3.0]);
        let indices = indices.classes.unwrap();
        assert_eq!((indices.top1, indices.miou), (classes.top1, classes.miou));
        assert_eq!(indices.absent, None);
        // of equal values the first decides; no map, no intersection
        let tied = compared(Vectors::of(&[3]), Reading::Classes, &[2.0; 3], &[2.0, 1.0, 2.0]);
        let tied = tied.classes.unwrap();
        assert_eq!((tied.top1, tied.miou, tied.absent), (Some(100.0), None, None));
    }

    #[test]
    fn labels_are_decided_one_by_one() {
        // logits of the student, probabilities of the teacher; nobody says yes to the last
        let found = compared(
            Vectors::of(&[3]),
            Reading::Labels([0.0, 0.5]),
            &[1.0, -1.0, -1.0, 1.0, 1.0, -2.0],
            &[0.9, 0.2, 0.1, 0.4, 0.6, 0.5],
        );
        let labels = found.labels.unwrap();
        assert_eq!(labels.per_label, [Some(50.0), Some(100.0), Some(100.0)]);
        assert_eq!((labels.mean, labels.without_positives), (Some(75.0), 1));
    }

    #[test]
    fn batches_add_up_to_the_same_bits_for_any_number_of_threads() {
        let values = |seed: u16| -> Vec<f32> {
            (0u16..600).map(|at| (f32::from(at) * 0.37 + f32::from(seed)).sin()).collect()
        };
        let (student, teacher) = (values(0), values(1));
        let with = |threads: usize, batch: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut agreement = Agreement::new(Vectors::of(&[5, 3]), Reading::Classes);
            pool.install(|| {
                for (student, teacher) in student.chunks(batch * 15).zip(teacher.chunks(batch * 15))
                {
                    agreement.add(student, teacher).unwrap();
                }
            });
            agreement.summary()
        };
        let alone = with(1, 40);
        assert_eq!(alone.samples, 40);
        assert_eq!([with(3, 40), with(2, 7), with(1, 1)], [(); 3].map(|()| alone.clone()));
    }

    #[test]
    fn other_lengths_are_refused() {
        let mut agreement = Agreement::new(Vectors::of(&[3]), Reading::Values);
        for (student, teacher) in [(&[0.0; 3][..], &[0.0; 6][..]), (&[0.0; 4], &[0.0; 4])] {
            let error = agreement.add(student, teacher).unwrap_err().to_string();
            assert!(error.contains("expected rows of 3 values"), "{error}");
        }
        assert!(Agreement::new(Vectors::of(&[0]), Reading::Values).add(&[], &[]).is_err());
    }
}
