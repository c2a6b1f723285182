//! `zarrs`, an independent implementation of Zarr v3, opens what we write and reads the same
//! values.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::{array, manifest};
use half::f16;
use nst_cache::array::Dtype;
use nst_cache::cache::{ArraySpec, CachePlan, Codec, Manifest, TapRecord, Writer};
use nst_cache::onnx::tap::Role;
use std::path::Path;
use std::sync::Arc;
use zarrs::array::{Array, ArraySubset, ElementOwned};
use zarrs::filesystem::FilesystemStore;
use zarrs::group::Group;

const ROWS: usize = 21;
const VIEWS: usize = 3;
const SEGMENT_ROWS: usize = 8;

fn spec(
    path: &str,
    dtype: Dtype,
    row_shape: &[usize],
    codec: Codec,
    chunk_rows: usize,
) -> ArraySpec {
    let tensor = path.starts_with("taps/").then(|| format!("/{path}_output_0"));
    ArraySpec { tensor, chunk_rows, ..array(path, dtype, row_shape, codec) }
}

/// Every element type and rank, in three views of two whole segments and a short one, whose last
/// chunk is short as well.
fn plan(codec: Codec) -> CachePlan {
    let mut manifest = Manifest {
        format: Manifest::FORMAT_FEEDING,
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
        views: VIEWS,
        seed: 7,
        segment_rows: SEGMENT_ROWS,
        row_arrays: vec![
            spec("sample_id", Dtype::I64, &[], codec, 8),
            spec("label", Dtype::I64, &[], codec, 4),
        ],
        view_arrays: vec![
            spec("input", Dtype::U8, &[3, 5, 4], codec, 2),
            spec("inputs/ids", Dtype::I64, &[6], codec, 8),
            spec("inputs/mask", Dtype::I32, &[], codec, 4),
            spec("inputs/flags", Dtype::Bool, &[3], codec, 4),
            spec("inputs/small", Dtype::I8, &[], codec, 8),
            ArraySpec {
                batch_axis: Some(1),
                ..spec("inputs/depth", Dtype::U16, &[2, 3], codec, 2)
            },
            spec("inputs/wave", Dtype::I16, &[2], codec, 4),
            spec("logits", Dtype::F32, &[10], codec, 1),
            spec("taps/conv/features", Dtype::F16, &[4, 3, 2], codec, 4),
            spec("taps/fc/features", Dtype::F64, &[7], codec, 2),
        ],
        ..manifest(ROWS, codec)
    };
    manifest.data.fingerprint.samples = 50;
    let ids = 0..i64::try_from(ROWS).unwrap();
    let sample_ids = ids.clone().map(|i| (i * 17) % 50).collect();
    CachePlan {
        manifest,
        sample_ids,
        labels: ids.map(|i| i % 5 - 1).collect(),
        before: None,
        names: Vec::new(),
    }
}

/// Element `index` of a view array over `[view, row, …]`, as the number that each type holds.
fn value(index: usize) -> i16 {
    i16::try_from((index * 37 + index / 11) % 1999).unwrap()
}

/// The bytes of elements `first..end` of a view array.
fn bytes(dtype: Dtype, first: usize, end: usize) -> Vec<u8> {
    let values = (first..end).map(value);
    match dtype {
        Dtype::U8 => values.map(|v| v.to_le_bytes()[0]).collect(),
        Dtype::I32 => values.flat_map(|v| i32::from(v).to_le_bytes()).collect(),
        Dtype::I64 => values.flat_map(|v| i64::from(v).to_le_bytes()).collect(),
        Dtype::F16 => {
            values.flat_map(|v| f16::from_f32(f32::from(v) / 7.0).to_le_bytes()).collect()
        }
        Dtype::F32 => values.flat_map(|v| (f32::from(v) / 7.0).to_le_bytes()).collect(),
        Dtype::F64 => values.flat_map(|v| (f64::from(v) / 7.0).to_le_bytes()).collect(),
        Dtype::Bool => values.map(|v| u8::from(v % 2 == 1)).collect(),
        Dtype::I8 => values.map(|v| v.to_le_bytes()[0]).collect(),
        Dtype::I16 | Dtype::U16 => values.flat_map(i16::to_le_bytes).collect(),
        other => panic!("{other:?}"),
    }
}

fn write(folder: &Path, plan: &CachePlan) {
    let mut writer = Writer::open(folder, plan).unwrap();
    for view in 0..VIEWS {
        for segment in 0..ROWS.div_ceil(SEGMENT_ROWS) {
            let mut shards = writer.segment(view, segment).unwrap();
            for (index, spec) in plan.manifest.view_arrays.iter().enumerate() {
                let per_row: usize = spec.row_shape.iter().product();
                // in appends of three rows, which are no whole chunks
                for row in (segment * SEGMENT_ROWS..ROWS.min((segment + 1) * SEGMENT_ROWS))
                    .collect::<Vec<_>>()
                    .chunks(3)
                {
                    let first = (view * ROWS + row[0]) * per_row;
                    shards
                        .append(index, &bytes(spec.dtype, first, first + row.len() * per_row))
                        .unwrap();
                }
            }
            writer.publish(shards).unwrap();
        }
    }
    writer.finish(None).unwrap();
}

/// All elements of an array as `zarrs` reads them.
fn read<T: ElementOwned>(store: &Arc<FilesystemStore>, path: &str, shape: &[usize]) -> Vec<T> {
    let array = Array::open(store.clone(), &format!("/{path}")).unwrap();
    let found: Vec<usize> = array.shape().iter().map(|&n| usize::try_from(n).unwrap()).collect();
    assert_eq!(found, shape, "{path}");
    array
        .retrieve_array_subset::<Vec<T>>(&ArraySubset::new_with_shape(array.shape().to_vec()))
        .unwrap()
}

#[test]
fn zarrs_reads_every_array_bit_for_bit() {
    for codec in [Codec::Zstd, Codec::Raw] {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(codec);
        write(folder.path(), &plan);
        let store = Arc::new(FilesystemStore::new(folder.path()).unwrap());
        assert_eq!(read::<i64>(&store, "sample_id", &[ROWS]), plan.sample_ids);
        assert_eq!(read::<i64>(&store, "label", &[ROWS]), plan.labels);
        for spec in &plan.manifest.view_arrays {
            let shape = [&[VIEWS, ROWS], spec.row_shape.as_slice()].concat();
            let expected = bytes(spec.dtype, 0, shape.iter().product());
            let path = spec.path.as_str();
            let found: Vec<u8> = match spec.dtype {
                Dtype::U8 => read::<u8>(&store, path, &shape),
                Dtype::I32 => {
                    read::<i32>(&store, path, &shape).iter().flat_map(|v| v.to_le_bytes()).collect()
                }
                Dtype::I64 => {
                    read::<i64>(&store, path, &shape).iter().flat_map(|v| v.to_le_bytes()).collect()
                }
                Dtype::F16 => {
                    read::<f16>(&store, path, &shape).iter().flat_map(|v| v.to_le_bytes()).collect()
                }
                Dtype::F32 => {
                    read::<f32>(&store, path, &shape).iter().flat_map(|v| v.to_le_bytes()).collect()
                }
                Dtype::F64 => {
                    read::<f64>(&store, path, &shape).iter().flat_map(|v| v.to_le_bytes()).collect()
                }
                Dtype::Bool => {
                    read::<bool>(&store, path, &shape).iter().map(|&v| u8::from(v)).collect()
                }
                Dtype::I8 => {
                    read::<i8>(&store, path, &shape).iter().flat_map(|v| v.to_le_bytes()).collect()
                }
                Dtype::I16 => {
                    read::<i16>(&store, path, &shape).iter().flat_map(|v| v.to_le_bytes()).collect()
                }
                Dtype::U16 => {
                    read::<u16>(&store, path, &shape).iter().flat_map(|v| v.to_le_bytes()).collect()
                }
                other => panic!("{other:?}"),
            };
            assert!(found == expected, "{path}, {codec:?}");
        }
    }
}

#[test]
fn zarrs_finds_every_group_name_and_attribute() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &plan(Codec::Zstd));
    let store = Arc::new(FilesystemStore::new(folder.path()).unwrap());
    for group in ["/", "/inputs", "/taps", "/taps/conv", "/taps/fc"] {
        Group::open(store.clone(), group).unwrap();
    }
    let array = Array::open(store.clone(), "/taps/conv/features").unwrap();
    assert_eq!(
        array.attributes().get("tensor").and_then(|t| t.as_str()),
        Some("/taps/conv/features_output_0")
    );
    let names: Vec<&str> =
        array.dimension_names().as_ref().unwrap().iter().flatten().map(AsRef::as_ref).collect();
    assert_eq!(names, ["view", "row", "c", "h", "w"]);
}
