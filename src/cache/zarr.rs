//! The Zarr v3 side of a cache: paths in the folder, and every `zarr.json`, each a pure function of
//! the manifest.

use super::{ArraySpec, Codec, Manifest};
use crate::array::Dtype;
use crate::error::{Context, Result};
use crate::statistic::{MapShape, Statistic};
use serde::Serialize;
use std::collections::BTreeMap;

/// The file name of a node's metadata document.
pub(super) const METADATA: &str = "zarr.json";

/// Every metadata document by its path in the folder: those of the root, of the groups that lead to
/// arrays, and of the arrays.
pub(super) fn documents(manifest: &Manifest) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut documents = BTreeMap::from([(METADATA.to_owned(), json(&GroupDocument::default())?)]);
    let rows = manifest.segments_per_view() * manifest.segment_rows;
    for spec in &manifest.row_arrays {
        let document = json(&ArrayDocument::new(
            spec,
            &[(manifest.rows, rows, spec.chunk_rows, "row")],
            None,
        ))?;
        documents.insert(format!("{}/{METADATA}", spec.path), document);
    }
    for spec in &manifest.view_arrays {
        for (end, _) in spec.path.match_indices('/') {
            documents.insert(
                format!("{}/{METADATA}", spec.path.get(..end).unwrap_or_default()),
                json(&GroupDocument::default())?,
            );
        }
        let leading = [
            (manifest.views, 1, 1, "view"),
            (manifest.rows, manifest.segment_rows, spec.chunk_rows, "row"),
        ];
        let map = match Statistic::of_path(&spec.path) {
            Some((alias, statistic)) if statistic != Statistic::Features => {
                manifest.tap(alias).and_then(|tap| tap.map)
            }
            _ => None,
        };
        documents.insert(
            format!("{}/{METADATA}", spec.path),
            json(&ArrayDocument::new(spec, &leading, map))?,
        );
    }
    Ok(documents)
}

/// The path of a row array's only shard.
pub(super) fn row_shard(spec: &ArraySpec) -> String {
    format!("{}/c/0", spec.path)
}

/// The path of the shard that holds a segment of a view array, with one chunk coordinate per axis.
pub(super) fn view_shard(spec: &ArraySpec, view: usize, segment: usize) -> String {
    format!("{}/c/{view}/{segment}{}", spec.path, "/0".repeat(spec.row_shape.len()))
}

/// The view array (its index), view and segment whose shard has this path, if it is a shard's.
/// Views and segments past the last count too, since the cache may have had more rows. Parses the
/// path alone, so the cost does not depend on the numbers in a manifest.
pub(super) fn parse_view_shard(manifest: &Manifest, path: &str) -> Option<(usize, usize, usize)> {
    manifest.view_arrays.iter().enumerate().find_map(|(array, spec)| {
        let mut coordinates = path.strip_prefix(&spec.path)?.strip_prefix("/c/")?.split('/');
        let (view, segment) =
            (coordinates.next()?.parse().ok()?, coordinates.next()?.parse().ok()?);
        (view_shard(spec, view, segment) == path).then_some((array, view, segment))
    })
}

fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(document)
        .context(|| format!("{METADATA}: cannot be written as JSON"))?;
    bytes.push(b'\n');
    Ok(bytes)
}

// The documents are structs, not `serde_json::json!` values, so that the order of their keys does
// not depend on serde_json features that other crates enable: the bytes are part of the format.

#[derive(Serialize)]
struct GroupDocument {
    zarr_format: u8,
    node_type: &'static str,
}

impl Default for GroupDocument {
    fn default() -> Self {
        Self { zarr_format: 3, node_type: "group" }
    }
}

#[derive(Serialize)]
struct ArrayDocument<'a> {
    zarr_format: u8,
    node_type: &'static str,
    shape: Vec<usize>,
    data_type: &'static str,
    chunk_grid: Named<ChunkShape>,
    chunk_key_encoding: Named<Separator>,
    fill_value: Fill,
    codecs: [Named<Sharding>; 1],
    attributes: Attributes<'a>,
    dimension_names: Vec<&'a str>,
}

impl<'a> ArrayDocument<'a> {
    /// `leading`: length, shard length, chunk length and name of each axis before the row's own.
    /// `map`: the map that a statistic is computed from.
    fn new(
        spec: &'a ArraySpec,
        leading: &[(usize, usize, usize, &'a str)],
        map: Option<MapShape>,
    ) -> Self {
        let shape = |length: fn(&(usize, usize, usize, &str)) -> usize| {
            leading.iter().map(length).chain(spec.row_shape.iter().copied()).collect()
        };
        let codecs = match spec.codec {
            Codec::Zstd => vec![ChunkCodec::BYTES, ChunkCodec::ZSTD, ChunkCodec::CRC32C],
            Codec::Raw => vec![ChunkCodec::BYTES, ChunkCodec::CRC32C],
        };
        let sharding = Sharding {
            chunk_shape: shape(|axis| axis.2),
            codecs,
            index_codecs: [ChunkCodec::BYTES, ChunkCodec::CRC32C],
            index_location: "end",
        };
        Self {
            zarr_format: 3,
            node_type: "array",
            shape: shape(|axis| axis.0),
            data_type: spec.dtype.name(),
            chunk_grid: Named {
                name: "regular",
                configuration: ChunkShape { chunk_shape: shape(|axis| axis.1) },
            },
            chunk_key_encoding: Named {
                name: "default",
                configuration: Separator { separator: "/" },
            },
            fill_value: match spec.dtype {
                Dtype::Bool => Fill::Bool(false),
                Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => Fill::Integer(0),
                Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => Fill::Integer(-1),
                Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64 => Fill::Float("NaN"),
            },
            codecs: [Named { name: "sharding_indexed", configuration: sharding }],
            attributes: Attributes { tensor: spec.tensor.as_deref(), map },
            dimension_names: leading
                .iter()
                .map(|axis| axis.3)
                .chain(spec.axes.iter().map(String::as_str))
                .collect(),
        }
    }
}

#[derive(Serialize)]
struct Named<C> {
    name: &'static str,
    configuration: C,
}

#[derive(Serialize)]
struct ChunkShape {
    chunk_shape: Vec<usize>,
}

#[derive(Serialize)]
struct Separator {
    separator: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Fill {
    Bool(bool),
    Integer(i8),
    Float(&'static str),
}

#[derive(Serialize)]
struct Sharding {
    chunk_shape: Vec<usize>,
    codecs: Vec<ChunkCodec>,
    index_codecs: [ChunkCodec; 2],
    index_location: &'static str,
}

#[derive(Serialize)]
#[serde(tag = "name", content = "configuration", rename_all = "lowercase")]
enum ChunkCodec {
    Bytes { endian: &'static str },
    Zstd { level: i32, checksum: bool },
    Crc32c,
}

impl ChunkCodec {
    const BYTES: Self = Self::Bytes { endian: "little" };
    const ZSTD: Self = Self::Zstd { level: 1, checksum: true };
    const CRC32C: Self = Self::Crc32c;
}

#[derive(Serialize)]
struct Attributes<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor: Option<&'a str>,
    /// The map that a statistic is computed from, which its own axes do not show.
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<MapShape>,
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn every_node_and_every_group_on_the_way_has_its_document() {
        let documents = documents(&testing::manifest(10, 2, Codec::Zstd)).unwrap();
        let paths: Vec<&str> = documents.keys().map(String::as_str).collect();
        let expected = [
            "input/zarr.json",
            "inputs/mask/zarr.json",
            "inputs/zarr.json",
            "label/zarr.json",
            "logits/zarr.json",
            "sample_id/zarr.json",
        ];
        assert_eq!(paths[..6], expected);
        assert_eq!(
            paths[6..],
            ["taps/conv/features/zarr.json", "taps/conv/zarr.json", "taps/zarr.json", "zarr.json"]
        );
    }

    #[test]
    fn an_array_document_says_what_the_manifest_says() {
        let manifest = testing::manifest(10, 2, Codec::Zstd);
        let documents = documents(&manifest).unwrap();
        let array: serde_json::Value =
            serde_json::from_slice(&documents["taps/conv/features/zarr.json"]).unwrap();
        assert_eq!(array["shape"], serde_json::json!([2, 10, 3, 2, 2]));
        assert_eq!(
            array["chunk_grid"]["configuration"]["chunk_shape"],
            serde_json::json!([1, 4, 3, 2, 2])
        );
        assert_eq!(
            array["codecs"][0]["configuration"]["chunk_shape"],
            serde_json::json!([1, 2, 3, 2, 2])
        );
        assert_eq!(array["attributes"], serde_json::json!({"tensor": "/conv/Relu_output_0"}));
        assert_eq!(array["dimension_names"], serde_json::json!(["view", "row", "c", "h", "w"]));
        assert_eq!(array["fill_value"], "NaN");
        let array: serde_json::Value =
            serde_json::from_slice(&documents["label/zarr.json"]).unwrap();
        assert_eq!(array["chunk_grid"]["configuration"]["chunk_shape"], serde_json::json!([12]));
        assert_eq!(array["fill_value"], -1);
    }

    #[test]
    fn a_statistic_says_what_it_is_of() {
        let documents = documents(&testing::statistics(Codec::Zstd)).unwrap();
        let attributes = |name: &str| {
            let array: serde_json::Value =
                serde_json::from_slice(&documents[&format!("taps/conv/{name}/zarr.json")]).unwrap();
            array["attributes"].clone()
        };
        assert_eq!(attributes("features"), serde_json::json!({"tensor": "/conv/Relu_output_0"}));
        let map = serde_json::json!({"layout": "nchw", "channels": 3, "height": 2, "width": 2});
        assert_eq!(
            attributes("gram"),
            serde_json::json!({"tensor": "/conv/Relu_output_0", "map": map})
        );
    }

    #[test]
    fn a_shard_path_has_one_coordinate_an_axis() {
        let manifest = testing::manifest(10, 2, Codec::Zstd);
        assert_eq!(view_shard(&manifest.view_arrays[0], 1, 2), "input/c/1/2/0/0/0");
        assert_eq!(row_shard(&manifest.row_arrays[0]), "sample_id/c/0");
        for (array, spec) in manifest.view_arrays.iter().enumerate() {
            assert_eq!(parse_view_shard(&manifest, &view_shard(spec, 1, 2)), Some((array, 1, 2)));
        }
        // from a cache that had more rows
        assert_eq!(parse_view_shard(&manifest, "input/c/0/3/0/0/0"), Some((0, 0, 3)));
        for other in
            ["input/c/1/2/0/0", "input/c/1/2/0/0/1", "input/c/01/2/0/0/0", "logits/1/2/0", "x"]
        {
            assert_eq!(parse_view_shard(&manifest, other), None, "{other}");
        }
    }
}
