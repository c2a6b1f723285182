//! What extraction must know of a student: the sizes of its maps.

use super::super::Context;
use crate::error::{Error, Result};
use crate::extract;
use crate::onnx::Model;
use crate::recipe::Extract;
use crate::student::{ImportOptions, Student, preset};
use crate::trainer::pairing;
use std::path::Path;

/// Classes of a preset that is built only for the sizes of its maps, which do not depend on them.
const CLASSES: usize = 2;

/// Height and width of the suggested maps of a student (a preset, an .onnx file, or a name under
/// `[students]`) for the recipe's images, shallowest first.
///
/// # Errors
/// When the student cannot be read, does not take such images, or has no maps.
pub(super) fn map_sizes(
    name: &str,
    recipe: &Extract,
    context: &Context<'_>,
) -> Result<Vec<[usize; 2]>> {
    let name = context.config.students.get(name).map_or(name, |entry| entry.model.as_str());
    let [channels, height, width] = extract::image_shape(recipe)?.ok_or_else(|| {
        Error::input(format!("--for {name}: expected images, found arrays"))
            .hint("name the sizes: --tap TENSOR@HxW")
    })?;
    let path = Path::new(name);
    let model = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) {
        Model::read(path)?
    } else {
        preset::build(name, CLASSES, [channels, height, width], 0)?
    };
    let student = Student::import(&model, &ImportOptions::default())?;
    let taps = student.taps(&[vec![1, channels, height, width]])?;
    let sizes: Vec<[usize; 2]> = pairing::student_maps(&taps)
        .iter()
        .filter(|map| map.suggested)
        .map(|map| [map.shape[1], map.shape[2]])
        .collect();
    if sizes.is_empty() {
        return Err(Error::input(format!(
            "--for {name}: expected a student with feature maps, found none"
        )));
    }
    Ok(sizes)
}
