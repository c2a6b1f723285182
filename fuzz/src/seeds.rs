//! Small valid inputs of each kind.

use super::cache::{golden, members};
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

#[path = "../../tests/it/operators_onnx/cases/mod.rs"]
#[allow(
    dead_code,
    clippy::all,
    clippy::pedantic,
    reason = "the operators' own test uses all of the table"
)]
mod cases;
#[path = "../../tests/it/support/draws.rs"]
#[allow(dead_code, clippy::all, clippy::pedantic, reason = "the tests use all of it")]
mod draws;
#[path = "../../tests/it/support/graph.rs"]
#[allow(dead_code, clippy::all, clippy::pedantic, reason = "the tests use all of it")]
mod graph;
#[path = "../../tests/it/operators_onnx/net.rs"]
#[allow(
    dead_code,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    reason = "the operators' own test uses all of it"
)]
mod net;
#[path = "../../tests/it/support/random.rs"]
#[allow(clippy::all, clippy::pedantic, reason = "the tests' own")]
mod random;
use random::Random;

/// A folder of `tests/data`.
fn data(name: &str) -> PathBuf {
    golden("raw").join("../..").join(name)
}

/// The files of a folder of `tests/data` with one of these endings.
fn files(name: &str, endings: &[&str]) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(data(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| endings.iter().any(|end| path.extension().is_some_and(|e| e == *end)));
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Whole networks, and each operator with each of its attributes alone.
#[must_use]
pub fn onnx() -> Vec<Vec<u8>> {
    let operators = cases::cases().into_iter().flat_map(|case| {
        case.opsets
            .iter()
            .map(|&opset| case.net(opset).model().bytes().to_vec())
            .collect::<Vec<_>>()
    });
    files("models", &["onnx"])
        .into_iter()
        .chain(files("students", &["onnx"]))
        .chain(operators)
        .collect()
}

/// The golden caches' metadata documents.
#[must_use]
pub fn zarr_json() -> Vec<Vec<u8>> {
    selected(true)
}

/// The golden caches' shards.
#[must_use]
pub fn shard() -> Vec<Vec<u8>> {
    selected(false)
}

/// Members of the golden caches, each behind the byte that selects it.
fn selected(metadata: bool) -> Vec<Vec<u8>> {
    let of = |(name, base): (&'static str, u8)| {
        let member = move |(number, path): (u8, PathBuf)| {
            [&[base + number][..], &fs::read(golden(name).join(path)).unwrap()].concat()
        };
        (0..).zip(members(name, metadata)).map(member)
    };
    [("zstd", 0), ("raw", 128)].into_iter().flat_map(of).collect()
}

/// The golden caches' manifests, with and without the frame.
#[must_use]
pub fn manifest() -> Vec<Vec<u8>> {
    let whole = ["zstd", "raw"].map(|name| fs::read(golden(name).join("manifest.json")).unwrap());
    let body = |bytes: &Vec<u8>| {
        let start = bytes.windows(12).position(|w| w == b"\"manifest\":{").unwrap() + 11;
        bytes[start..bytes.len() - 2].to_vec()
    };
    whole.iter().map(body).chain(whole.clone()).collect()
}

/// A `.npy` file of this type and shape.
fn npy(element: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{element}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), bytes].concat()
}

/// Stored and deflated arrays of several types, with and without labels.
#[must_use]
pub fn npz() -> Vec<Vec<u8>> {
    let archive = |method, arrays: &[(&str, Vec<u8>)]| {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        for (name, bytes) in arrays {
            archive.start_file(format!("{name}.npy"), options).unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap().into_inner()
    };
    let images = ("x", npy("<f4", "(3, 2, 2)", &[7; 48]));
    let labels = ("labels", npy("|u1", "(3,)", &[0, 1, 2]));
    let wide = ("ids", npy(">i8", "(3, 1)", &[0; 24]));
    [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated]
        .into_iter()
        .flat_map(|method| {
            [
                archive(method, &[images.clone(), labels.clone()]),
                archive(method, &[wide.clone(), images.clone()]),
            ]
        })
        .collect()
}

/// Two files, the first one's length before it.
#[must_use]
pub fn idx() -> Vec<Vec<u8>> {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3][..], &[9; 12]].concat();
    let labels = [0, 0, 8, 1, 0, 0, 0, 2, 0, 1];
    let packed = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    };
    let join = |images: &[u8], labels: &[u8]| {
        [&u16::try_from(images.len()).unwrap().to_le_bytes()[..], images, labels].concat()
    };
    vec![join(&images, &labels), join(&packed(&images), &packed(&labels))]
}

/// Two classes of one image each, plain and compressed, with links, and as zip files.
#[must_use]
pub fn tar() -> Vec<Vec<u8>> {
    let image = fs::read(data("pil").join("one-bit.png")).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    for path in [
        "./photos/cat/1.png",
        "photos/dog/a much longer name, beyond the hundred bytes that a header has room for, as \
         image boards like them.png",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(image.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, Path::new(path), &image[..]).unwrap();
    }
    for (kind, path, target) in [
        (tar::EntryType::Symlink, "photos/cat/2.png", "../dog/../cat/1.png"),
        (tar::EntryType::Symlink, "photos/cat/more", "../dog"),
        (tar::EntryType::Link, "photos/dog/3.png", "photos/cat/1.png"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        archive.append_link(&mut header, path, target).unwrap();
    }
    let zipped = |method| {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        for path in ["photos/cat/1.png", "photos/dog/2.png", "photos/readme.txt"] {
            archive.start_file(path, options).unwrap();
            archive.write_all(&image).unwrap();
        }
        archive.finish().unwrap().into_inner()
    };
    let plain = archive.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).unwrap();
    vec![
        plain,
        gzip.finish().unwrap(),
        zipped(zip::CompressionMethod::Stored),
        zipped(zip::CompressionMethod::Deflated),
    ]
}

/// Samples of an image and a label, plain and compressed, and names with braces.
#[must_use]
pub fn wds() -> Vec<Vec<u8>> {
    let image = fs::read(data("pil").join("one-bit.png")).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in [
        ("a/1.png", &image[..]),
        ("a/1.cls", b"3"),
        ("a/2.json", br#"{"label": "dog", "width": 7}"#),
        ("a/2.png", &image),
        ("a/2.txt", b"a dog"),
        ("a/3.seg.png", &image),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, Path::new(path), bytes).unwrap();
    }
    let plain = archive.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).unwrap();
    let names = ["{000..012..3}.tar", "{a..c,x{3..1},}-{b,\\{c}.tar"];
    [plain, gzip.finish().unwrap()]
        .into_iter()
        .chain(names.map(|name| name.as_bytes().to_vec()))
        .collect()
}

/// Images and labels in two row groups, in each version and compression.
#[must_use]
pub fn parquet() -> Vec<Vec<u8>> {
    use parquet::basic::{Compression, GzipLevel, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::properties::{WriterProperties, WriterVersion};
    use parquet::file::writer::SerializedFileWriter;
    let image = ByteArray::from(fs::read(data("pil").join("one-bit.png")).unwrap());
    let schema = "message m { optional group image { optional binary bytes; } \
                  optional int64 label; }";
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let file = |compression, version| {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_writer_version(version)
            .build();
        let mut bytes = Vec::new();
        let schema = std::sync::Arc::new(schema.clone());
        let mut writer =
            SerializedFileWriter::new(&mut bytes, schema, std::sync::Arc::new(properties)).unwrap();
        for labels in [[3, 1], [0, 2]] {
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let images = [image.clone()];
            column.typed::<ByteArrayType>().write_batch(&images, Some(&[2, 0]), None).unwrap();
            column.close().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(&labels, Some(&[1, 1]), None).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
        bytes
    };
    let kinds = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
    ];
    let versions = [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0];
    kinds.iter().flat_map(|kind| versions.map(|version| file(*kind, version))).collect()
}

/// Tables with and without labels and splits.
#[must_use]
pub fn csv() -> Vec<Vec<u8>> {
    [
        &b"path,label\n0.png,3\n1.png,-1\n"[..],
        b"\xef\xbb\xbfFileName;class;note\r\n\"1.png\";dog;\"a; \"\"b\"\"\"\r\n0.png;cat;\r\n",
        b"split\tfile\ntrain\t0.png\ntest\t1.png\n",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

/// A pickle as Python 2 writes it, and one of protocol 4.
#[must_use]
pub fn pickle() -> Vec<Vec<u8>> {
    let array = |start: &[u8], name: &[u8]| {
        let parts = [
            start,
            &b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06"[..],
            b"K\x00\x85U\x01b\x87R",
            b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x07U\x02u1K\x00K\x01\x87R",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00",
            &[7; 3072],
            b"tb",
            name,
        ];
        parts.concat()
    };
    let names: Vec<u8> =
        (0..100).flat_map(|n| [&b"U\x03"[..], format!("c{n:02}").as_bytes()].concat()).collect();
    let rest = [&b"U\x10fine_label_names]("[..], &names, b"eu."].concat();
    let two = array(b"\x80\x02}q\x01(U\x0bfine_labels]q\x02(K\x2aeU\x04data", &rest);
    let four = array(
        b"\x80\x04\x95\x00\x01\x00\x00\x00\x00\x00\x00}\x94(\x8c\x0bfine_labels\x94]\x94K\x2aa\
          \x8c\x04data",
        &rest,
    );
    vec![two, four]
}

/// One file of each format and kind of pixel.
#[must_use]
pub fn image() -> Vec<Vec<u8>> {
    files("pil", &["png", "jpg", "gif", "bmp", "webp", "tif", "ppm"])
}

/// One record of each version; of the second also class names.
#[must_use]
pub fn cifar() -> Vec<Vec<u8>> {
    let record = |labels: &[u8]| [labels, &[77; 3072]].concat();
    let names: String = (0..100).map(|i| format!("name{i}\n")).collect();
    vec![
        [&[0][..], &record(&[3])].concat(),
        [&[1][..], &record(&[1, 42]), &record(&[1, 7]), names.as_bytes()].concat(),
    ]
}
