//! Caches: a manifest to begin with, what stands in one, and extractions through the library.

use nst_cache::array::{Dtype, Layout};
use nst_cache::cache::{ArraySpec, Cache, Codec, DataRecord, Decoder, Manifest, TeacherRecord};
use nst_cache::data::{
    Augmentation, Channels, DataFormat, Fingerprint, Interpolation, Preprocess, PreprocessOptions,
    ViewCount,
};
use nst_cache::error::Result;
use nst_cache::extract::{self, ExtractReport, live};
use nst_cache::monitor::Silent;
use nst_cache::onnx::Feeding;
use nst_cache::recipe::{Compress, Extract, Keep, LogitsChoice, Store};
use nst_cache::runtime::{Device, Runtime, SessionOptions};
use std::collections::BTreeMap;
use std::path::Path;

/// How the tests run teachers.
pub const OPTIONS: SessionOptions = SessionOptions { device: Device::Cpu, threads: 1 };

/// What `extract` is asked for, of the teacher in a folder: all of its defaults, in f32.
pub fn recipe(folder: &Path, data: &str) -> Extract {
    Extract {
        teacher: folder.join("teacher.onnx"),
        data: data.parse().unwrap(),
        split: "train".into(),
        taps: Vec::new(),
        logits: LogitsChoice::Auto,
        logits_keep: None,
        logits_mask: None,
        keep: Keep::Auto,
        criteria: Vec::new(),
        sizes: Vec::new(),
        in_graph: None,
        store: Store::F32,
        compress: Compress::Auto,
        feeding: Feeding::default(),
        preprocess: PreprocessOptions::default(),
        default_preprocess: PreprocessOptions::default(),
        classes: None,
        batch: Some(4),
        limit: None,
        shuffle: None,
        views: ViewCount::Count(1),
        augmentation: Augmentation::NONE,
        inputs: None,
        seed: 0,
        skip_bad: false,
        refresh: false,
        output: folder.join("cache"),
        threads: 2,
    }
}

/// Images as the tiny teacher takes them.
pub fn fashion() -> PreprocessOptions {
    PreprocessOptions { preset: Some("fashion-mnist".into()), ..PreprocessOptions::default() }
}

/// Extracts, or says why not.
pub fn try_extract(recipe: &Extract) -> Result<ExtractReport> {
    extract::run(recipe, &Runtime::load(None).unwrap(), &OPTIONS, &Silent)
}

pub fn extract(recipe: &Extract) -> ExtractReport {
    try_extract(recipe).unwrap()
}

/// The cache of a recipe, compared with its teacher.
pub fn compare(recipe: &Extract) -> live::Live {
    let runtime = Runtime::load(None).unwrap();
    live::compare(&recipe.output, &recipe.teacher, &runtime, &OPTIONS, &Silent).unwrap()
}

/// All rows of an array in a view, in row order.
pub fn view_bytes(cache: &Cache, path: &str, view: usize) -> Vec<u8> {
    let (array, rows) = (cache.array(path).unwrap(), cache.manifest().rows);
    let mut bytes = Vec::new();
    array.read(&mut Decoder::default(), view, 0, rows, &mut bytes).unwrap();
    bytes
}

/// The same of the first view.
pub fn bytes(cache: &Cache, path: &str) -> Vec<u8> {
    view_bytes(cache, path, 0)
}

/// The same as numbers.
pub fn floats(cache: &Cache, path: &str) -> Vec<f32> {
    let bytes = bytes(cache, path);
    if cache.array(path).unwrap().spec().dtype == Dtype::F16 {
        let halves = bytemuck::pod_collect_to_vec::<u8, half::f16>(&bytes);
        return halves.into_iter().map(half::f16::to_f32).collect();
    }
    bytemuck::pod_collect_to_vec(&bytes)
}

/// The arrays of taps, in the cache's order.
pub fn tap_paths(folder: &Path) -> Vec<String> {
    let arrays = Manifest::load(folder).unwrap().view_arrays.into_iter().map(|a| a.path);
    arrays.filter(|path| path.starts_with("taps/")).collect()
}

/// Every file below a folder by its path within it, but what is no part of a cache's content: its
/// lock, and the record of the time that it took.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with(".lock") && !path.ends_with("extraction.json") {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Holds one cache's files against another's: the same ones, of the same bytes.
pub fn assert_same(expected: &BTreeMap<String, Vec<u8>>, found: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let differing: Vec<_> = expected
        .iter()
        .filter(|(path, bytes)| found[*path] != **bytes)
        .map(|(path, _)| path)
        .collect();
    assert!(differing.is_empty(), "other bytes in {differing:?}");
}

/// Images of one channel and this side, as bytes.
pub fn preprocess(side: usize, mean: f32, std: f32) -> Preprocess {
    Preprocess {
        size: [side; 2],
        resize: None,
        interpolation: Interpolation::Bilinear,
        channels: Channels::Gray,
        layout: Layout::Nchw,
        dtype: Dtype::F32,
        scale: 1.0 / 255.0,
        mean: vec![mean],
        std: vec![std],
        exif_orientation: false,
    }
}

/// An array of a manifest, its axes named `c`, `h`, `w` as far as it has them.
pub fn array(path: &str, dtype: Dtype, row_shape: &[usize], codec: Codec) -> ArraySpec {
    ArraySpec {
        path: path.into(),
        dtype,
        row_shape: row_shape.to_vec(),
        axes: ["c", "h", "w"].iter().take(row_shape.len()).map(|&axis| axis.into()).collect(),
        tensor: None,
        batch_axis: None,
        codec,
        chunk_rows: 4,
    }
}

/// The manifest of a cache of so many rows in one segment, with ids and labels and nothing else.
pub fn manifest(rows: usize, codec: Codec) -> Manifest {
    let row_array = |path| ArraySpec { chunk_rows: rows, ..array(path, Dtype::I64, &[], codec) };
    Manifest {
        format: Manifest::FORMAT,
        tool: "nst-cache 0.1.0".into(),
        teacher: TeacherRecord {
            file: "teacher.onnx".into(),
            sha256: "00".into(),
            runtime: "1.31.1".into(),
            provider: "cpu".into(),
            batch: 4,
            constants: Vec::new(),
            top1_basis_points: None,
        },
        data: DataRecord {
            spec: "folder:images".into(),
            split: "train".into(),
            fingerprint: Fingerprint {
                format: DataFormat::Folder,
                samples: rows,
                listing_sha256: "11".into(),
            },
            classes: Vec::new(),
            preprocess: None,
            limit: None,
            shuffle: None,
            skipped: Vec::new(),
        },
        augment: None,
        logits: None,
        taps: Vec::new(),
        rows,
        views: 1,
        seed: 0,
        segment_rows: rows,
        row_arrays: ["sample_id", "label"].map(row_array).to_vec(),
        view_arrays: Vec::new(),
        row_sums: Vec::new(),
        extends: None,
        segments: Vec::new(),
    }
}
