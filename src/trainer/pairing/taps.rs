//! What can be compared: the taps of a cache and the tensors of a student.

use crate::array::Layout;
use crate::cache::Manifest;
use crate::onnx::tap::{Role, Tap};
use crate::statistic::{LOGITS, Statistic};

/// A tap of the teacher in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeacherTap {
    /// Its name in the cache.
    pub alias: String,
    /// The ONNX tensor.
    pub tensor: String,
    /// Its spatial stage.
    pub stage: Option<usize>,
    /// Channels, height and width of a map; the width of a vector; the axes of anything else.
    pub shape: Vec<usize>,
    /// The statistics that the cache holds of it, with the bytes of a decoded row.
    pub stored: Vec<(Statistic, usize)>,
    /// Whether it is an output of the teacher.
    pub output: bool,
}

/// A tensor of the student.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudentTap {
    /// The tensor's name.
    pub tensor: String,
    /// Its spatial stage.
    pub stage: Option<usize>,
    /// Channels, height and width of a map; the width of a vector; the axes of anything else.
    pub shape: Vec<usize>,
    /// Whether it is the last map of its stage, or the vector before the classifier.
    pub suggested: bool,
    /// Whether it is an output of the student.
    pub output: bool,
    /// Whether it is a map `[batch, height, width, channels]`.
    pub channels_last: bool,
}

/// The maps of which a cache holds the features or statistics, in its order.
#[must_use]
pub fn teacher_maps(manifest: &Manifest) -> Vec<TeacherTap> {
    teacher_taps(manifest, &[Role::Map], |alias| Some(manifest.map(alias)?.sizes().to_vec()))
}

/// The vectors in a cache, in its order.
#[must_use]
pub fn teacher_vectors(manifest: &Manifest) -> Vec<TeacherTap> {
    teacher_taps(manifest, &[Role::Vector], |alias| row_shape(manifest, alias))
}

/// The class logits in a cache, as a tap.
pub(super) fn teacher_logits(manifest: &Manifest) -> Option<TeacherTap> {
    let spec = manifest.logits_array()?;
    Some(TeacherTap {
        alias: LOGITS.to_owned(),
        tensor: spec.tensor.clone().unwrap_or_default(),
        stage: None,
        shape: manifest.logits_row()?,
        stored: Vec::new(),
        output: true,
    })
}

/// The row shape of a tap's first array.
pub(super) fn row_shape(manifest: &Manifest, alias: &str) -> Option<Vec<usize>> {
    manifest.statistics(alias).next().map(|(_, spec)| spec.row_shape.clone())
}

/// The taps of these roles, with their shapes and stored statistics.
pub(super) fn teacher_taps(
    manifest: &Manifest,
    roles: &[Role],
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
            output: tap.output,
        })
    };
    manifest.taps.iter().filter(|tap| roles.contains(&tap.role)).filter_map(tap).collect()
}

/// The maps `[N, C, H, W]` and `[N, H, W, C]` among a student's taps, in graph order;
/// one-dimensional ones, `[N, C, T]`, as maps of height 1, as which a cache holds them.
#[must_use]
pub fn student_maps(taps: &[Tap]) -> Vec<StudentTap> {
    let is_map = |tap: &&Tap| {
        let is_flat = tap.shape.len() == 3 && tap.grid.is_some_and(|[height, _]| height == 1);
        match tap.layout {
            Some(Layout::Nchw) => tap.shape.len() == 4 || is_flat,
            Some(Layout::Nhwc) => tap.shape.len() == 4,
            None => false,
        }
    };
    let mut maps = student_taps(taps.iter().filter(is_map));
    for map in &mut maps {
        if map.shape.len() == 2 {
            map.shape.insert(1, 1);
        } else if map.channels_last {
            map.shape.rotate_right(1);
        }
    }
    maps
}

/// The vectors `[N, C]` among a student's taps, in graph order.
#[must_use]
pub fn student_vectors(taps: &[Tap]) -> Vec<StudentTap> {
    student_taps(taps.iter().filter(|tap| tap.role == Role::Vector))
}

/// What else a student computes of a sample, such as tokens, in graph order.
pub(super) fn student_whole(taps: &[Tap]) -> Vec<StudentTap> {
    let roles = [Role::Tokens, Role::Volume, Role::Values];
    student_taps(taps.iter().filter(|tap| roles.contains(&tap.role)))
}

/// The class logits among a student's taps.
pub(super) fn student_logits(taps: &[Tap]) -> Option<StudentTap> {
    student_taps(taps.iter().filter(|tap| tap.role == Role::Logits)).pop()
}

fn student_taps<'a>(taps: impl Iterator<Item = &'a Tap>) -> Vec<StudentTap> {
    let tap = |tap: &Tap| {
        let mut shape = tap.shape.get(1..)?.iter().copied().collect::<Option<Vec<_>>>()?;
        if shape.is_empty() {
            // `[batch]`: a vector of one value
            shape.push(1);
        }
        Some(StudentTap {
            tensor: tap.tensor.clone(),
            stage: tap.stage,
            shape,
            suggested: tap.suggested,
            output: tap.output,
            channels_last: tap.layout == Some(Layout::Nhwc),
        })
    };
    taps.filter_map(tap).collect()
}
