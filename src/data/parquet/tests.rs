//! Files as Hugging Face's library and others write them.

use crate::data::{ContentHash, Dataset, Sample, hashed_names, open};
use crate::monitor::Silent;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::path::Path;
use std::sync::Arc;

const HUGGING_FACE: &str = "message m { optional group image { optional binary bytes; \
     optional binary path (UTF8); } optional int64 label; }";
const CATS: &str = r#"{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}"#;

fn png(gray: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    ::image::GrayImage::from_pixel(3, 2, ::image::Luma([gray]))
        .write_to(&mut bytes, ::image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// The values of a column, row by row.
enum Values<'a> {
    Bytes(Vec<Option<Vec<u8>>>),
    Numbers(&'a [Option<i64>]),
}

fn images(grays: &[Option<u8>]) -> Values<'static> {
    Values::Bytes(grays.iter().map(|gray| gray.map(png)).collect())
}

fn texts(texts: &[&str]) -> Values<'static> {
    Values::Bytes(texts.iter().map(|text| Some(text.as_bytes().to_vec())).collect())
}

/// A file of this schema, with a row group for each element of `groups`.
fn file(schema: &str, groups: &[Vec<Values<'_>>], properties: WriterProperties) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    for columns in groups {
        let mut group = writer.next_row_group().unwrap();
        for values in columns {
            let mut column = group.next_column().unwrap().unwrap();
            let defined = column.typed_level();
            match values {
                Values::Bytes(all) => {
                    let there: Vec<ByteArray> =
                        all.iter().flatten().cloned().map(ByteArray::from).collect();
                    let levels = levels(all, defined);
                    column
                        .typed::<ByteArrayType>()
                        .write_batch(&there, Some(&levels), None)
                        .unwrap();
                }
                Values::Numbers(all) => {
                    let there: Vec<i64> = all.iter().flatten().copied().collect();
                    let levels = levels(all, defined);
                    column.typed::<Int64Type>().write_batch(&there, Some(&levels), None).unwrap();
                }
            }
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

fn levels<T>(all: &[Option<T>], defined: i16) -> Vec<i16> {
    all.iter().map(|value| if value.is_some() { defined } else { 0 }).collect()
}

trait Level {
    fn typed_level(&mut self) -> i16;
}

impl Level for parquet::file::writer::SerializedColumnWriter<'_> {
    fn typed_level(&mut self) -> i16 {
        match self.untyped() {
            parquet::column::writer::ColumnWriter::Int64ColumnWriter(w) => {
                w.get_descriptor().max_def_level()
            }
            parquet::column::writer::ColumnWriter::ByteArrayColumnWriter(w) => {
                w.get_descriptor().max_def_level()
            }
            _ => panic!("a column of another type"),
        }
    }
}

/// Hugging Face's columns.
fn rows(grays: &[Option<u8>], labels: &'static [Option<i64>]) -> Vec<Values<'static>> {
    vec![images(grays), texts(&vec!["a.png"; grays.len()]), Values::Numbers(labels)]
}

fn read(path: &Path, split: &str) -> Result<Box<dyn Dataset>, String> {
    read_with(path, "", split)
}

fn read_with(path: &Path, columns: &str, split: &str) -> Result<Box<dyn Dataset>, String> {
    let spec = format!("parquet:{}{columns}", path.display());
    open(&spec.parse().unwrap(), split, &Silent).map_err(|error| {
        assert_eq!(error.kind(), crate::error::Kind::Input, "{}", error.chain());
        error.chain()
    })
}

/// Label and first pixel of each sample.
fn contents(set: &dyn Dataset) -> Vec<(i64, u8)> {
    let gray = |index| match set.sample(index).unwrap() {
        Sample::Image(image) => image.pixels[0],
        Sample::Arrays(_) => panic!("an image"),
    };
    (0..set.len()).map(|index| (set.label(index), gray(index))).collect()
}

#[test]
fn hugging_face_layout_is_read_in_every_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let groups = || {
        vec![
            rows(&[Some(1), Some(2)], &[Some(0), Some(1)]),
            rows(&[Some(3), Some(2), Some(2)], &[Some(1), None, Some(-1)]),
        ]
    };
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(parquet::basic::GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for statistics in [EnabledStatistics::None, EnabledStatistics::Page] {
                let properties = WriterProperties::builder()
                    .set_compression(compression)
                    .set_writer_version(version)
                    .set_statistics_enabled(statistics)
                    .set_data_page_row_count_limit(1)
                    .set_write_batch_size(1)
                    .set_key_value_metadata(Some(vec![KeyValue::new(
                        "huggingface".into(),
                        CATS.to_owned(),
                    )]))
                    .build();
                std::fs::write(&path, file(HUGGING_FACE, &groups(), properties)).unwrap();
                let set = read(&path, "test").unwrap();
                assert_eq!(contents(&*set), [(0, 1), (1, 2), (1, 3), (-1, 2), (-1, 2)]);
                assert_eq!(set.classes(), ["cat", "dog"]);
                assert_eq!(
                    (set.name(0), set.name(3)),
                    ("x.parquet row 0".into(), "x.parquet row 3".into())
                );
                assert_eq!(set.content(2).unwrap(), Some(ContentHash::of(&png(3))));
                assert_eq!(set.image_size(4), Some([2, 3]));
                assert!(set.sample(5).is_err());
            }
        }
    }
}

#[test]
fn splits_are_in_file_names() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for (name, gray) in
        [("train-00001-of-00002", 2), ("train-00000-of-00002", 1), ("test-00000-of-00001", 3)]
    {
        let bytes =
            file(HUGGING_FACE, &[rows(&[Some(gray)], &[Some(7)])], WriterProperties::default());
        std::fs::write(data.join(format!("{name}.parquet")), bytes).unwrap();
    }
    let train = read(folder.path(), "train").unwrap();
    assert_eq!(contents(&*train), [(7, 1), (7, 2)]);
    assert_eq!(train.name(1), "train-00001-of-00002.parquet row 0");
    assert_eq!(contents(&*read(folder.path(), "test").unwrap()), [(7, 3)]);
    assert!(
        read(folder.path(), "val").err().unwrap().contains("no split `val`, found train, test")
    );
    let braces = read(&data.join("train-{00000..00001}-of-00002.parquet"), "train").unwrap();
    assert_eq!(braces.fingerprint(), train.fingerprint());
    let bare = open(&folder.path().to_str().unwrap().parse().unwrap(), "train", &Silent).unwrap();
    assert_eq!(bare.fingerprint(), train.fingerprint());
    // other labels in a file of the same size
    let names = hashed_names(&*train).unwrap();
    let bytes = file(HUGGING_FACE, &[rows(&[Some(1)], &[Some(8)])], WriterProperties::default());
    std::fs::write(data.join("train-00000-of-00002.parquet"), bytes).unwrap();
    let changed = read(folder.path(), "train").unwrap();
    assert_ne!(changed.fingerprint(), train.fingerprint());
    assert_ne!(hashed_names(&*changed).unwrap(), names);
}

#[test]
fn rows_without_an_image_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let groups = || {
        vec![
            rows(&[Some(1), None, Some(2)], &[Some(4), Some(5), Some(6)]),
            rows(&[None], &[Some(0)]),
            rows(&[Some(3)], &[Some(1)]),
        ]
    };
    std::fs::write(&path, file(HUGGING_FACE, &groups(), WriterProperties::default())).unwrap();
    let set = read(&path, "train").unwrap();
    assert_eq!(contents(&*set), [(4, 1), (6, 2), (1, 3)]);
    assert_eq!(set.name(1), "x.parquet row 2");
    // without statistics it is only known once it is read
    let properties =
        WriterProperties::builder().set_statistics_enabled(EnabledStatistics::None).build();
    std::fs::write(&path, file(HUGGING_FACE, &groups(), properties)).unwrap();
    let set = read(&path, "train").unwrap();
    let error = set.sample(1).unwrap_err().to_string();
    assert!(set.len() == 5 && error.contains("row 1: expected bytes, found none"), "{error}");
}

#[test]
fn columns_are_guessed_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let save = |schema: &str, columns: Vec<Values<'_>>| {
        std::fs::write(&path, file(schema, &[columns], WriterProperties::default())).unwrap();
    };
    let one = || images(&[Some(1)]);
    let label = |value: &'static [Option<i64>]| Values::Numbers(value);
    let refused = |columns: &str, what: &str| {
        let error = read_with(&path, columns, "train").err().unwrap();
        assert!(error.contains(what), "{error}");
    };
    save(
        "message m { required binary photo; optional binary class (UTF8); }",
        vec![one(), texts(&["dog"])],
    );
    let set = read(&path, "train").unwrap();
    assert_eq!((contents(&*set), set.classes()), (vec![(0, 1)], ["dog".to_owned()].as_slice()));
    save(
        "message m { optional binary img; optional int64 fine_label; \
         optional int64 coarse_label; }",
        vec![one(), label(&[Some(7)]), label(&[Some(2)])],
    );
    refused("", "expected one column of labels, found fine_label, coarse_label");
    refused("#label=none", "expected one column of labels, found fine_label, coarse_label");
    refused("#image=none", "expected one column of images (bytes), found img");
    assert_eq!(read_with(&path, "#image=img,label=coarse_label", "train").unwrap().label(0), 2);
    save(
        "message m { optional binary a; optional binary b; optional int64 x; }",
        vec![one(), one(), label(&[Some(7)])],
    );
    refused("", "expected one column of images (bytes), found a, b");
    assert_eq!(contents(&*read_with(&path, "#image=b", "train").unwrap()), [(-1, 1)]);
    save("message m { optional int64 label; }", vec![label(&[Some(7)])]);
    refused("", "expected one column of images (bytes), found none");
    save(
        "message m { optional binary image; optional int64 label; }",
        vec![one(), label(&[Some(-2)])],
    );
    refused("", "row 0: expected a label from 0, or -1 for none, found -2");
    let names = KeyValue::new("huggingface".into(), CATS.to_owned());
    let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![names])).build();
    std::fs::write(&path, file(HUGGING_FACE, &[rows(&[Some(1)], &[Some(2)])], properties)).unwrap();
    refused("", "expected labels below 2, as there are class names, found 2");
}

#[test]
fn truncated_and_changed_files_are_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let groups = [rows(&[Some(1), Some(2)], &[Some(0), Some(1)]), rows(&[Some(3)], &[Some(1)])];
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let whole = file(HUGGING_FACE, &groups, properties);
    for cut in (0..whole.len()).step_by(13) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = read(&path, "train").err().unwrap();
        assert!(error.contains("expected a Parquet file"), "{error}");
    }
    for at in 4..whole.len() - 4 {
        let mut bytes = whole.clone();
        bytes[at] = [0, 0x7f, 0xff, whole[at] ^ 1][at % 4];
        std::fs::write(&path, &bytes).unwrap();
        let Ok(set) = read(&path, "train") else { continue };
        for index in 0..set.len().min(4) {
            if let Err(error) = set.sample(index) {
                assert_eq!(error.kind(), crate::error::Kind::Input, "{}", error.chain());
            }
        }
    }
}
