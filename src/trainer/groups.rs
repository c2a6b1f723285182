//! Per-parameter factors of the learning rate and the weight decay.

use super::optimizer::Factors;
use crate::error::{Error, Result};
use crate::recipe::Optimization;
use crate::student::Student;

/// The factors that the recipe gives each of the student's parameters, in their order.
///
/// # Errors
/// When a pattern matches no parameter.
pub fn factors(student: &Student, recipe: &Optimization) -> Result<Vec<Factors>> {
    let select = |key: &str, pattern: &str| {
        let selected = student.select(pattern);
        if selected.contains(&true) {
            return Ok(selected);
        }
        Err(Error::input(format!(
            "recipe: optimizer.{key}: expected a pattern of parameters (or norm), found \
             `{pattern}`, which names none of the student's"
        ))
        .hint("`nst-cache inspect STUDENT.onnx --parameters` lists what trains"))
    };
    let mut all = vec![Factors::default(); student.parameters().len()];
    for pattern in &recipe.no_decay {
        for (factors, is_meant) in all.iter_mut().zip(select("no-decay", pattern)?) {
            if is_meant {
                factors.decay = 0.0;
            }
        }
    }
    // the first matching group wins, so it is written last
    for group in recipe.groups.iter().rev() {
        for (factors, is_meant) in all.iter_mut().zip(select("group", &group.pattern)?) {
            if is_meant {
                factors.lr = group.lr_factor;
            }
        }
    }
    Ok(all)
}
