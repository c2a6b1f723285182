//! A small cache with fixed content, for tests.

use super::{ArraySpec, CachePlan, Codec, DataRecord, Manifest, TapRecord, TeacherRecord, Writer};
use crate::array::{Dtype, Layout};
use crate::data::{
    Augment, Augmentation, Channels, DataFormat, Fingerprint, Interpolation, Preprocess,
};
use crate::error::Result;
use crate::onnx::tap::Role;
use crate::statistic::{MapShape, Statistic};
use half::f16;
use std::path::Path;

fn spec(
    path: &str,
    dtype: Dtype,
    row_shape: &[usize],
    axes: &[&str],
    tensor: Option<&str>,
    codec: Codec,
    chunk_rows: usize,
) -> ArraySpec {
    ArraySpec {
        path: path.into(),
        dtype,
        row_shape: row_shape.into(),
        axes: axes.iter().map(|&a| a.into()).collect(),
        tensor: tensor.map(Into::into),
        batch_axis: None,
        codec,
        chunk_rows,
    }
}

/// A manifest with `rows` rows and `views` views in segments of 4 rows: an image, a mask, logits
/// and a tap.
pub fn manifest(rows: usize, views: usize, codec: Codec) -> Manifest {
    Manifest {
        format: Manifest::FORMAT,
        tool: "nst-cache 0.1.0".into(),
        teacher: TeacherRecord {
            file: "teacher.onnx".into(),
            sha256: "00".into(),
            runtime: "1.31.1".into(),
            provider: "cpu".into(),
            batch: 2,
            constants: Vec::new(),
            top1_basis_points: None,
        },
        data: DataRecord {
            spec: "folder:images".into(),
            split: "train".into(),
            fingerprint: Fingerprint {
                format: DataFormat::Folder,
                samples: 100,
                listing_sha256: "11".into(),
            },
            classes: vec!["cat".into(), "dog".into(), "fish".into()],
            preprocess: None,
            limit: Some(rows),
            shuffle: None,
            skipped: Vec::new(),
        },
        logits: None,
        taps: vec![TapRecord {
            alias: "conv".into(),
            tensor: "/conv/Relu_output_0".into(),
            role: Role::Map,
            stage: Some(1),
            output: false,
            made_by: None,
            map: None,
            batch_norm: None,
        }],
        rows,
        views,
        augment: None,
        seed: 7,
        segment_rows: 4,
        row_arrays: vec![
            spec("sample_id", Dtype::I64, &[], &[], None, codec, 4),
            spec("label", Dtype::I64, &[], &[], None, codec, 4),
        ],
        view_arrays: vec![
            spec("input", Dtype::U8, &[1, 4, 4], &["c", "h", "w"], None, codec, 2),
            spec("inputs/mask", Dtype::I32, &[], &[], None, codec, 4),
            spec("logits", Dtype::F32, &[3], &["class"], Some("logits"), codec, 1),
            spec(
                "taps/conv/features",
                Dtype::F16,
                &[3, 2, 2],
                &["c", "h", "w"],
                Some("/conv/Relu_output_0"),
                codec,
                2,
            ),
        ],
        row_sums: Vec::new(),
        extends: None,
        segments: Vec::new(),
    }
}

/// The same manifest with flipped and blended views.
pub fn augmented(rows: usize, views: usize, codec: Codec) -> Manifest {
    let mut manifest = manifest(rows, views, codec);
    manifest.format = Manifest::FORMAT_AUGMENTED;
    manifest.augment =
        Some(Augmentation { geometry: Augment::Flip, mixup: Some(0.5), ..Augmentation::NONE });
    manifest.data.preprocess = Some(Preprocess {
        size: [4, 4],
        resize: None,
        interpolation: Interpolation::Bilinear,
        channels: Channels::Gray,
        layout: Layout::Nchw,
        dtype: Dtype::F32,
        scale: 1.0,
        mean: vec![0.0],
        std: vec![1.0],
        exif_orientation: false,
    });
    for (at, path, dtype) in
        [(2, "flip", Dtype::U8), (3, "partner", Dtype::I64), (4, "mix", Dtype::F32)]
    {
        manifest.view_arrays.insert(at, spec(path, dtype, &[], &[], None, codec, 2));
    }
    manifest
}

/// A manifest with six rows and two views whose tap has every statistic; the additions to that of
/// [`manifest`] are at the end.
pub fn statistics(codec: Codec) -> Manifest {
    let mut manifest = manifest(6, 2, codec);
    manifest.format = Manifest::FORMAT_STATISTICS;
    let map = MapShape { layout: Layout::Nchw, channels: 3, height: 2, width: 2 };
    manifest.taps[0].map = Some(map);
    for statistic in &Statistic::ALL[1..] {
        let (shape, axes) = map.row(*statistic).unwrap_or_default();
        let dtype = statistic.dtype().unwrap_or(Dtype::F32);
        manifest.view_arrays.push(spec(
            &statistic.path("conv"),
            dtype,
            &shape,
            axes,
            Some("/conv/Relu_output_0"),
            codec,
            2,
        ));
    }
    manifest
}

/// The plan of [`manifest`].
pub fn plan(rows: usize, views: usize, codec: Codec) -> CachePlan {
    plan_of(manifest(rows, views, codec))
}

/// The plan of a manifest.
pub fn plan_of(manifest: Manifest) -> CachePlan {
    let row_numbers = 0..i64::try_from(manifest.rows).unwrap_or_default();
    CachePlan {
        manifest,
        sample_ids: row_numbers.clone().map(|row| (row * 37 + 11) % 101 % 100).collect(),
        labels: row_numbers.map(|row| row % 4 - 1).collect(),
        before: None,
        names: Vec::new(),
    }
}

/// The bytes of one row of a view array.
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a few rows")]
pub fn row(spec: &ArraySpec, view: usize, row: usize) -> Vec<u8> {
    match spec.path.as_str() {
        "flip" => return vec![u8::from((view + row) % 2 == 1)],
        "partner" => return ((row + view) as i64 % 6).to_le_bytes().to_vec(),
        // twelve activations: the last four bits are padding
        "taps/conv/sign" => {
            return vec![(view * 17 + row * 31).to_le_bytes()[0], (row % 16).to_le_bytes()[0]];
        }
        "mix" => return (f32::from((row as u8 + 3) % 7) / 6.0).to_le_bytes().to_vec(),
        _ => {}
    }
    let values = 0..spec.row_shape.iter().product::<usize>();
    let value = |i: usize| ((view * 1009 + row * 31 + i * 7) % 251).to_le_bytes()[0];
    match spec.dtype {
        Dtype::Bool => values.map(|i| value(i) % 2).collect(),
        Dtype::U8 | Dtype::I8 => values.map(value).collect(),
        Dtype::I16 | Dtype::U16 | Dtype::BF16 => {
            values.flat_map(|i| u16::from(value(i)).to_le_bytes()).collect()
        }
        Dtype::U32 => values.flat_map(|i| u32::from(value(i)).to_le_bytes()).collect(),
        Dtype::U64 => values.flat_map(|i| u64::from(value(i)).to_le_bytes()).collect(),
        Dtype::I32 => values.flat_map(|i| (i32::from(value(i)) - 100).to_le_bytes()).collect(),
        Dtype::I64 => values.flat_map(|i| (i64::from(value(i)) - 100).to_le_bytes()).collect(),
        Dtype::F16 => {
            values.flat_map(|i| f16::from_f32(f32::from(value(i)) / 8.0).to_le_bytes()).collect()
        }
        Dtype::F32 => values.flat_map(|i| (f32::from(value(i)) / 3.0).to_le_bytes()).collect(),
        Dtype::F64 => values.flat_map(|i| (f64::from(value(i)) / 3.0).to_le_bytes()).collect(),
    }
}

/// The bytes of rows of a view array.
pub fn rows(spec: &ArraySpec, view: usize, rows: std::ops::Range<usize>) -> Vec<u8> {
    rows.flat_map(|r| row(spec, view, r)).collect()
}

/// Writes one segment.
pub fn publish(writer: &mut Writer, view: usize, segment: usize) -> Result<()> {
    let manifest = writer.manifest().clone();
    let first = segment * manifest.segment_rows;
    let mut shards = writer.segment(view, segment)?;
    for row in first..first + manifest.rows_of_segment(segment) {
        let published = manifest.published_arrays(view, segment);
        for (index, spec) in manifest.view_arrays.iter().enumerate().skip(published) {
            shards.append(index, &self::row(spec, view, row))?;
        }
    }
    writer.publish(shards)
}

/// Writes the missing segments of a cache.
pub fn write(folder: &Path, plan: &CachePlan) -> Result<()> {
    let mut writer = Writer::open(folder, plan)?;
    for view in 0..plan.manifest.views {
        for segment in 0..plan.manifest.segments_per_view() {
            if !writer.has(view, segment) {
                publish(&mut writer, view, segment)?;
            }
        }
    }
    writer.finish(Some(9_125))
}

/// The next number of Vigna's splitmix64.
pub fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
