//! A cache as `extract` writes one, of random images and random maps of a teacher.

use half::f16;
use nst_cache::array::{Dtype, Layout};
use nst_cache::cache::{
    ArraySpec, CachePlan, Codec, DataRecord, Manifest, TapRecord, TeacherRecord, Writer,
    chunk_rows, probe_codec, segment_rows,
};
use nst_cache::data::{Channels, DataFormat, Fingerprint, Interpolation, Preprocess};
use nst_cache::error::Result;
use nst_cache::onnx::tap::Role;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// What the cache is to hold.
pub struct Synthetic<'a> {
    /// Side of the images, in pixels.
    pub side: usize,
    /// How many classes the labels name.
    pub classes: i64,
    /// Channels, height and width of each of the teacher's stages.
    pub stages: &'a [[usize; 3]],
    /// Whether the maps are those before the rectifier.
    pub signed: bool,
    /// Rows.
    pub rows: usize,
    /// Rows of a step.
    pub batch: usize,
    /// How every array is stored; `None`: as it pays.
    pub codec: Option<Codec>,
}

/// Writes the cache.
///
/// # Errors
/// When the disk refuses.
pub fn write(folder: &Path, synthetic: &Synthetic<'_>) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let plan = plan(synthetic, &mut random);
    let mut writer = Writer::open(folder, &plan)?;
    for segment in 0..plan.manifest.segments_per_view() {
        let mut shards = writer.segment(0, segment)?;
        for _ in 0..plan.manifest.rows_of_segment(segment) {
            for (index, array) in plan.manifest.view_arrays.iter().enumerate() {
                shards.append(index, &row(array, synthetic.signed, &mut random))?;
            }
        }
        writer.publish(shards)?;
    }
    writer.finish(None)
}

/// The bytes of a row: noise for images, and for maps noise around zero, or what a rectifier leaves
/// of it.
fn row(array: &ArraySpec, signed: bool, random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = vec![0; array.row_bytes()];
    if array.dtype == Dtype::U8 {
        random.fill_bytes(&mut bytes);
        return bytes;
    }
    for half in bytes.chunks_exact_mut(2) {
        // the sum of four bytes is nearly normal
        let sum: u16 = random.random::<[u8; 4]>().into_iter().map(u16::from).sum();
        let value = f32::from(sum) - 510.0;
        half.copy_from_slice(
            &f16::from_f32(if signed { value } else { value.max(0.0) } / 148.0).to_le_bytes(),
        );
    }
    bytes
}

fn plan(synthetic: &Synthetic<'_>, random: &mut ChaCha8Rng) -> CachePlan {
    let &Synthetic { side, classes, stages, signed, rows, batch, codec } = synthetic;
    let spec = |path: String, dtype, shape: &[usize]| ArraySpec {
        path,
        dtype,
        row_shape: shape.to_vec(),
        axes: ["c", "h", "w"][..shape.len()].iter().map(|&axis| axis.to_owned()).collect(),
        tensor: None,
        batch_axis: None,
        codec: Codec::Zstd,
        chunk_rows: 1,
    };
    let alias = |stage: usize| format!("stage{}", stage + 1);
    let maps = stages
        .iter()
        .enumerate()
        .map(|(stage, shape)| spec(format!("taps/{}/features", alias(stage)), Dtype::F16, shape));
    let mut view_arrays: Vec<ArraySpec> =
        std::iter::once(spec("input".to_owned(), Dtype::U8, &[3, side, side]))
            .chain(maps)
            .collect();
    let largest = view_arrays.iter().map(ArraySpec::row_bytes).max().unwrap_or(1);
    let segment_rows = segment_rows(largest, batch).min(rows);
    for array in &mut view_arrays {
        array.codec = codec.unwrap_or_else(|| probe_codec(&row(array, signed, random)));
        array.chunk_rows = chunk_rows(array.row_bytes(), segment_rows);
    }
    let manifest = Manifest {
        format: Manifest::FORMAT,
        tool: concat!("nst-cache ", env!("CARGO_PKG_VERSION")).to_owned(),
        teacher: TeacherRecord {
            file: "none".to_owned(),
            sha256: String::new(),
            runtime: String::new(),
            provider: String::new(),
            batch,
            constants: Vec::new(),
            top1_basis_points: None,
        },
        data: DataRecord {
            spec: "random".to_owned(),
            split: "train".to_owned(),
            fingerprint: Fingerprint {
                format: DataFormat::Npz,
                samples: rows,
                listing_sha256: String::new(),
            },
            classes: Vec::new(),
            preprocess: Some(Preprocess {
                size: [side, side],
                resize: None,
                interpolation: Interpolation::Bilinear,
                channels: Channels::Rgb,
                layout: Layout::Nchw,
                dtype: Dtype::F32,
                scale: 1.0 / 255.0,
                mean: vec![0.5; 3],
                // that of noise, so that the student's input has variance 1
                std: vec![0.2887; 3],
                exif_orientation: false,
            }),
            limit: None,
            shuffle: None,
            skipped: Vec::new(),
        },
        augment: None,
        logits: None,
        taps: (0..stages.len())
            .map(|stage| TapRecord {
                alias: alias(stage),
                tensor: alias(stage),
                role: Role::Map,
                stage: Some(stage + 1),
                output: false,
                made_by: None,
                map: None,
                batch_norm: None,
            })
            .collect(),
        rows,
        views: 1,
        seed: 0,
        segment_rows,
        row_arrays: ["sample_id", "label"]
            .map(|path| ArraySpec {
                chunk_rows: segment_rows,
                ..spec(path.to_owned(), Dtype::I64, &[])
            })
            .to_vec(),
        view_arrays,
        row_sums: Vec::new(),
        extends: None,
        segments: Vec::new(),
    };
    let sample_ids = (0..rows).map(|row| i64::try_from(row).unwrap_or(i64::MAX)).collect();
    let labels = (0..rows).map(|_| random.random_range(0..classes)).collect();
    CachePlan { manifest, sample_ids, labels, before: None, names: Vec::new() }
}
