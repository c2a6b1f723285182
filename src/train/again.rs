//! The command that adds to a cache what a criterion needs.

use crate::array::{Dtype, Layout};
use crate::cache::Manifest;
use crate::data::{Preprocess, preset};
use crate::error::Result;
use crate::recipe::CriterionRecipe;
use crate::statistic::Statistic;
use crate::trainer::pairing::Pair;
use serde::Serialize;
use std::path::Path;

/// Refuses criteria that the cache in `folder` cannot serve, with the command that adds what they
/// need.
///
/// # Errors
/// Names the first such criterion and tap, what the cache holds, and the command.
pub(super) fn refuse_unserved(
    manifest: &Manifest,
    folder: &Path,
    terms: &[CriterionRecipe],
    pairs: &[Vec<Pair>],
) -> Result<()> {
    for (term, pairs) in terms.iter().zip(pairs) {
        for pair in pairs {
            pair.read(term).map_err(|e| e.hint(adding(manifest, folder, term, pair)))?;
        }
    }
    Ok(())
}

/// The command with every flag that identifies the cache, so that it adds to that cache.
fn adding(manifest: &Manifest, folder: &Path, criterion: &CriterionRecipe, pair: &Pair) -> String {
    let data = &manifest.data;
    let mut words: Vec<String> =
        ["nst-cache", "extract", &manifest.teacher.file, "--data", &data.spec]
            .map(str::to_owned)
            .to_vec();
    let mut flag = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    if data.split != "train" {
        flag("split", data.split.clone());
    }
    for (name, number) in [
        ("limit", data.limit.map(|n| n as u64)),
        ("shuffle", data.shuffle),
        ("seed", Some(manifest.seed).filter(|&s| s != 0)),
    ] {
        if let Some(number) = number {
            flag(name, number.to_string());
        }
    }
    if let Some(augment) = &manifest.augment {
        flag("augment", augment.geometry.name().to_owned());
        let jitter = augment.color_jitter.map(|jitter| jitter.to_string());
        let numbers = [("mixup", augment.mixup), ("cutmix", augment.cutmix)]
            .map(|(name, n)| (name, n.map(|n| n.to_string())));
        for (name, value) in [("color-jitter", jitter)].into_iter().chain(numbers) {
            if let Some(value) = value {
                flag(name, value);
            }
        }
    }
    for constant in &manifest.teacher.constants {
        let values: Vec<String> = constant.values.iter().map(ToString::to_string).collect();
        flag("input", format!("{}={}", constant.tensor, values.join(",")));
    }
    for spec in &manifest.view_arrays {
        if let (Some(input), Some(axis)) = (&spec.tensor, spec.batch_axis) {
            flag("batch-axis", format!("{input}={axis}"));
        }
    }
    for (name, value) in data.preprocess.iter().flat_map(preprocess_flags) {
        flag(name, value);
    }
    let features = manifest
        .view_arrays
        .iter()
        .filter(|a| matches!(Statistic::of_path(&a.path), Some((_, Statistic::Features))));
    if features.clone().count() > 0 && features.clone().all(|a| a.dtype == Dtype::F32) {
        flag("store", "f32".to_owned());
    }
    flag("output", folder.display().to_string());
    let sizes = |shape: &[usize]| if let &[_, h, w] = shape { [h, w] } else { [0, 0] };
    let (whole, student) = (sizes(&pair.teacher_shape), sizes(&pair.student_shape));
    let size = [student[0].min(whole[0]), student[1].min(whole[1])];
    let there: Vec<Statistic> =
        pair.teacher_stored.iter().map(|(statistic, _)| *statistic).collect();
    let is_same = size == whole;
    // without --tap, a statistic is added to every tap of the cache
    if !is_same {
        let tensor =
            manifest.tap(&pair.teacher).map_or(pair.teacher.as_str(), |tap| tap.tensor.as_str());
        let layout = if manifest.map(&pair.teacher).is_some_and(|map| map.layout == Layout::Nhwc) {
            ":nhwc"
        } else {
            ""
        };
        flag(
            "tap",
            format!("{tensor}{layout}@{0}x{1}={2}-{0}x{1}", size[0], size[1], pair.teacher),
        );
    }
    let way = criterion.method.ways().into_iter().next().unwrap_or_default();
    let missing: Vec<&str> =
        way.iter().filter(|s| !is_same || !there.contains(s)).map(|s| s.name()).collect();
    flag("keep", missing.join(","));
    if !data.skipped.is_empty() {
        words.push("--skip-bad".to_owned());
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// The flags that select this preprocessing.
fn preprocess_flags(p: &Preprocess) -> Vec<(&'static str, String)> {
    let size = ("size", format!("{}x{}", p.size[0], p.size[1]));
    let is_preset = |name: &&str| {
        preset(name).is_ok_and(|known| {
            known.mean.as_ref() == Some(&p.mean)
                && known.std.as_ref() == Some(&p.std)
                && known.scale == Some(p.scale)
                && known.crop_ratio.is_none()
                && p.resize.is_none()
        })
    };
    if let Some(name) = ["cifar10", "fashion-mnist"].into_iter().find(is_preset) {
        return vec![("preprocess", name.to_owned()), size];
    }
    let list =
        |values: &[f32]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let resize = p.resize.map(|pixels| ("resize", pixels.to_string()));
    let named = [
        ("interpolation", word(p.interpolation)),
        ("channels", word(p.channels)),
        ("layout", word(p.layout)),
        ("dtype", word(p.dtype)),
    ];
    let numbers = [("scale", p.scale.to_string()), ("mean", list(&p.mean)), ("std", list(&p.std))];
    std::iter::once(size).chain(resize).chain(named).chain(numbers).collect()
}

/// The name of a choice, as used in flags and recipes.
fn word(choice: impl Serialize) -> String {
    serde_json::to_value(choice)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// A word, quoted for a shell if necessary.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_command_as_they_are() {
        assert_eq!(
            ["a/b.onnx", "idx:x y", "it's", "", "t:0@8x8=s"].map(quoted),
            ["a/b.onnx", "'idx:x y'", r"'it'\''s'", "''", "t:0@8x8=s"]
        );
    }
}
