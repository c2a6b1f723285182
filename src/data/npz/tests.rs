use super::*;
use crate::array::Values;
use crate::monitor::Silent;
use crate::onnx::Dim;
use std::io::{Cursor, Write};
use std::sync::Mutex;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// A `.npy` file.
fn npy(descr: &str, shape: &str, fortran: bool, data: &[u8]) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
    bytes.extend(text.bytes());
    bytes.extend(data);
    bytes
}

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| f32::from(u16::try_from(i).unwrap()).to_le_bytes()).collect()
}

fn write(arrays: &[(&str, Vec<u8>)], method: CompressionMethod) -> tempfile::NamedTempFile {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        zip.start_file(
            format!("{name}.npy"),
            SimpleFileOptions::default().compression_method(method),
        )
        .unwrap();
        zip.write_all(bytes).unwrap();
    }
    save(&zip.finish().unwrap().into_inner())
}

fn save(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// A model input; 0 is an open axis.
fn input(name: &str, dtype: Dtype, axes: &[usize]) -> Value {
    let shape = axes.iter().map(|&n| if n == 0 { Dim::Open } else { Dim::Fixed(n) }).collect();
    Value { name: name.into(), dtype: Some(dtype), shape, kind: String::new(), has_shape: true }
}

/// Opens arrays as data for a model.
fn feed(arrays: &[(&str, Vec<u8>)], split: &str, inputs: &[Value]) -> Result<Npz> {
    open(write(arrays, CompressionMethod::Stored).path(), split, Some(inputs), &Silent)
}

fn example() -> Vec<(&'static str, Vec<u8>)> {
    let labels: Vec<u8> = [2i32, -1, 0].into_iter().flat_map(i32::to_be_bytes).collect();
    vec![
        ("x", npy("<f4", "(3, 2)", false, &floats(6))),
        ("mask", npy("|b1", "(3,)", false, &[1, 0, 1])),
        ("labels", npy(">i4", "(3,)", false, &labels)),
    ]
}

#[test]
fn rows_are_read_packed_or_not() {
    let mut fingerprints = Vec::new();
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let file = write(&example(), method);
        let set = open(file.path(), "train", None, &Silent).unwrap();
        assert_eq!((set.len(), [0, 1, 2].map(|i| set.label(i))), (3, [2, -1, 0]));
        let Sample::Arrays(arrays) = set.sample(1).unwrap() else { panic!("arrays") };
        let expected = [
            ("mask".to_owned(), Array::new(vec![], Values::Bool(vec![0])).unwrap()),
            ("x".to_owned(), Array::new(vec![2], Values::F32(vec![2.0, 3.0])).unwrap()),
        ];
        assert_eq!(arrays, expected);
        assert!(set.sample(3).is_err());
        fingerprints.push(set.fingerprint().clone());
    }
    assert_eq!(fingerprints[0], fingerprints[1]);
}

fn fails(arrays: &[(&str, Vec<u8>)], what: &str) {
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let error = open(write(arrays, method).path(), "train", None, &Silent).err().unwrap();
        assert!(error.chain().contains(what), "{what}: {}", error.chain());
    }
}

#[test]
fn headers_that_lie_are_refused() {
    fails(
        &[("x", npy("<f4", "(4, 2)", false, &floats(6)))],
        "expected 32 bytes of elements for shape [4, 2], found 24",
    );
    fails(&[("x", npy("<f4", "(2, 2)", false, &floats(6)))], "found 24");
    fails(
        &[("x", npy("<f4", "(9223372036854775807, 9223372036854775807)", false, &floats(6)))],
        "a number of bytes",
    );
    fails(&[("x", npy("<f4", "(4611686018427387904, 4)", false, &[]))], "bytes of elements");
    fails(&[("x", npy("<f4", "(1000000000000, 0)", false, &[]))], "expected rows, found shape");
    fails(&[("x", npy("<f4", "()", false, &floats(1)))], "found a single value");
    fails(&[("x", npy("|O", "(3, 2)", false, &floats(6)))], "Python objects");
    fails(&[("x", npy("<c8", "(3, 1)", false, &floats(6)))], "complex numbers");
    fails(&[("x", npy("<M8[ns]", "(3,)", false, &floats(6)))], "dates");
    fails(&[("x", b"nonsense".to_vec())], "NPY header: expected the magic number");
    fails(&[("x", Vec::new())], "magic number");
}

/// The array's name and bytes, the labels that are read, and the classes.
type Case<'a> = (&'a str, Vec<u8>, [i64; 3], &'a [&'a str]);

#[test]
fn labels_are_read_in_the_forms_in_which_people_save_them() {
    let x = || ("x", npy("<f4", "(3, 2)", false, &floats(6)));
    let text = |names: &[&str], width: usize| -> Vec<u8> {
        let padded = |name: &&str| {
            name.chars()
                .chain(std::iter::repeat('\0'))
                .take(width)
                .flat_map(|c| (c as u32).to_le_bytes())
                .collect::<Vec<_>>()
        };
        names.iter().flat_map(padded).collect()
    };
    let cases: [Case<'_>; 9] = [
        ("label", npy("|u1", "(3, 1)", false, &[2, 0, 9]), [2, 0, 9], &[]),
        ("Labels", npy("|i1", "(3,)", false, &[2, 0xff, 0]), [2, -1, 0], &[]),
        ("y", npy("|b1", "(3,)", false, &[1, 0, 1]), [1, 0, 1], &[]),
        ("targets", npy("<f4", "(3,)", false, &floats(3)), [0, 1, 2], &[]),
        ("labels", npy("|u1", "(3, 2)", false, &[0, 1, 1, 0, 0, 1]), [1, 0, 1], &[]),
        // one-hot, class after class
        ("labels", npy("|u1", "(3, 2)", true, &[0, 1, 0, 1, 0, 1]), [1, 0, 1], &[]),
        (
            "Y",
            npy(
                "<f4",
                "(3, 2)",
                false,
                &[1.0f32, 0.0, 0.0, 1.0, 1.0, 0.0].map(f32::to_le_bytes).concat(),
            ),
            [0, 1, 0],
            &[],
        ),
        (
            "labels",
            npy("<U4", "(3,)", false, &text(&["dog", "bird", "dog"], 4)),
            [1, 0, 1],
            &["bird", "dog"],
        ),
        ("labels", npy("|S3", "(3,)", false, b"dog\0\0\0a\0\0"), [0; 3], &[]),
    ];
    for (name, bytes, expected, classes) in &cases[..8] {
        let set = feed(&[x(), (name, bytes.clone())], "train", &[input("x", Dtype::F32, &[0, 2])])
            .unwrap();
        assert_eq!(
            ([0, 1, 2].map(|i| set.label(i)), set.classes()),
            (*expected, classes.iter().map(|&c| c.to_owned()).collect::<Vec<_>>().as_slice()),
            "{name}"
        );
    }
    let fails = |bytes: Vec<u8>, what: &str| {
        let error = feed(&[x(), ("labels", bytes)], "train", &[input("x", Dtype::F32, &[0, 2])])
            .err()
            .unwrap()
            .chain();
        assert!(error.contains(what), "{what}: {error}");
    };
    fails(cases[8].1.clone(), "row 1: expected a class name, found an empty one");
    fails(
        npy("|i1", "(3,)", false, &[0, 0xfe, 0]),
        "row 1: expected a label from 0, or -1 for none, found -2",
    );
    fails(npy("<u8", "(3,)", false, &[0xff; 24]), "row 0: expected a label from 0");
    fails(
        npy("<f4", "(3,)", false, &[0.5f32, 1.0, 2.0].map(f32::to_le_bytes).concat()),
        "found 0.5",
    );
    fails(npy("|u1", "(3, 3)", false, &[1, 0, 1, 0, 1, 0, 0, 0, 1]), "row 0: has several labels");
    fails(npy("|u1", "(3, 2)", false, &[1, 0, 0, 0, 0, 1]), "row 1: has no label among several");
    fails(
        npy("<f4", "(3, 2)", false, &[0.5f32; 6].map(f32::to_le_bytes).concat()),
        "one-hot rows of 0 and 1, found 0.5",
    );
    fails(npy("|O", "(3,)", false, &[0; 9]), "Python objects (a pickle)");
    fails(npy("|i1", "(2,)", false, &[0; 2]), "expected 3 labels as rows in x, found 2 in labels");
    fails(npy("|i1", "(3, 2, 2)", false, &[0; 12]), "expected one label per row");
}

#[test]
fn arrays_that_nothing_needs_are_left_out() {
    let extras = |name| {
        vec![
            ("x", npy("<f4", "(3, 2)", false, &floats(6))),
            (name, npy("<f4", "(2,)", false, &floats(2))),
            ("class_names", npy("<U1", "(2,)", false, &[b'a', 0, 0, 0, b'b', 0, 0, 0])),
            ("meta", npy("|O", "()", false, &[0; 7])),
            ("broken", b"nonsense".to_vec()),
        ]
    };
    let notes = Notes::default();
    let file = write(&extras("mean"), CompressionMethod::Stored);
    let set = open(file.path(), "train", Some(&[input("x", Dtype::F32, &[0, 2])]), &notes).unwrap();
    assert_eq!((set.len(), set.label(0)), (3, -1));
    let lines = notes.0.into_inner().unwrap();
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    for name in [
        "`mean` (float32 [2])",
        "`class_names` (text [2])",
        "`meta` (Python objects",
        "`broken` (unreadable)",
    ] {
        assert!(line.contains(name), "{name}: {line}");
    }
    // without a model, arrays that go together are taken
    assert_eq!(open(file.path(), "train", None, &Silent).unwrap().len(), 3);
    // unless the model needs them
    let needs = |name: &str| {
        let inputs = [input("x", Dtype::F32, &[0, 2]), input(name, Dtype::F32, &[0])];
        feed(&extras("mean"), "train", &inputs).err().unwrap().chain()
    };
    assert!(
        needs("mean").contains("expected 3 rows as in x, found 2 in mean"),
        "{}",
        needs("mean")
    );
    assert!(needs("meta").contains("meta: holds Python objects"), "{}", needs("meta"));
    assert!(needs("other").contains("expected an array for input `other`"), "{}", needs("other"));
    fails(&[("labels", npy("|i1", "(3,)", false, &[0; 3]))], "found none");
    fails(&[], "found none");
    // a model may have an input that is named like labels
    let inputs = [input("x", Dtype::F32, &[0, 2]), input("y", Dtype::F32, &[0])];
    let set = feed(
        &[
            ("x", npy("<f4", "(3, 2)", false, &floats(6))),
            ("y", npy("<f4", "(3,)", false, &floats(3))),
        ],
        "train",
        &inputs,
    )
    .unwrap();
    assert_eq!(
        (
            set.label(0),
            matches!(set.sample(0).unwrap(), Sample::Arrays(arrays) if arrays.len() == 2)
        ),
        (-1, true)
    );
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Monitor for Notes {
    fn begin(&self, _: &str, _: &'static str, _: u64, _: u64) {}
    fn advance(&self, _: u64, _: u64) {}
    fn status(&self, _: &str) {}
    fn end(&self) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.into());
    }
    fn warn(&self, _: &str) {}
    fn stop_requested(&self) -> bool {
        false
    }
}

/// Bytes that encode their position.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| i.to_le_bytes()[0]).collect()
}

#[test]
fn images_are_known_by_type_and_shape_and_take_their_split() {
    let float = [input("image", Dtype::F32, &[0, 3, 4, 5])];
    let keras = [
        ("x_train", npy("|u1", "(3, 4, 5, 3)", false, &bytes(180))),
        ("y_train", npy("|u1", "(3, 1)", false, &[7, 8, 9])),
        ("x_test", npy("|u1", "(1, 4, 5, 3)", false, &bytes(60))),
        ("y_test", npy("|u1", "(1, 1)", false, &[5])),
    ];
    for inputs in [Some(float.as_slice()), None] {
        let file = write(&keras, CompressionMethod::Stored);
        let set = open(file.path(), "train", inputs, &Silent).unwrap();
        assert_eq!((set.len(), set.label(2), set.image_size(0)), (3, 9, Some([4, 5])));
        let Sample::Image(image) = set.sample(1).unwrap() else { panic!("an image") };
        assert_eq!(
            (image.height, image.width, image.channels, image.pixels),
            (4, 5, 3, bytes(120)[60..].to_vec())
        );
        let test = open(file.path(), "test", inputs, &Silent).unwrap();
        assert_eq!((test.len(), test.label(0)), (1, 5));
        assert_ne!(set.fingerprint(), test.fingerprint());
        let error = open(file.path(), "val", inputs, &Silent).err().unwrap();
        assert!(error.chain().contains("no split `val`, found test, train"), "{}", error.chain());
    }
    // MedMNIST's: gray, three splits
    let medmnist = [
        ("train_images", npy("|u1", "(2, 4, 5)", false, &bytes(40))),
        ("train_labels", npy("|u1", "(2, 1)", false, &[1, 2])),
        ("val_images", npy("|u1", "(1, 4, 5)", false, &bytes(20))),
        ("val_labels", npy("|u1", "(1, 1)", false, &[3])),
    ];
    let set = feed(&medmnist, "validation", &float).unwrap();
    assert_eq!((set.len(), set.label(0)), (1, 3));
    assert!(matches!(set.sample(0).unwrap(), Sample::Image(image) if image.channels == 1));
    // channels first; the array has the input's name, but the input does not take bytes
    let planar = [
        ("image", npy("|u1", "(1, 3, 4, 5)", false, &bytes(60))),
        ("labels", npy("|u1", "(1,)", false, &[4])),
    ];
    let Sample::Image(image) = feed(&planar, "train", &float).unwrap().sample(0).unwrap() else {
        panic!("an image")
    };
    assert_eq!(image.pixels[..6], [0, 20, 40, 1, 21, 41]);
    // a model that takes bytes of this name gets them unchanged
    let set = feed(&planar, "train", &[input("image", Dtype::U8, &[0, 3, 4, 5])]).unwrap();
    assert!(matches!(set.sample(0).unwrap(), Sample::Arrays(_)));
    // other candidates are not images
    for shape in ["(1, 3, 20, 1)", "(1, 1, 60, 1)", "(60, 1)", "(1, 2, 2, 15)"] {
        assert!(
            feed(&[("image", npy("|u1", shape, false, &bytes(60)))], "train", &float)
                .is_ok_and(|set| set.image_size(0).is_none()),
            "{shape}"
        );
    }
    // of several, the one whose name says so
    let two = [
        ("masks", npy("|u1", "(1, 4, 5)", false, &bytes(20))),
        ("images", npy("|u1", "(1, 4, 5, 3)", false, &bytes(60))),
    ];
    let first = feed(&two, "train", &float).unwrap().sample(0).unwrap();
    assert!(matches!(first, Sample::Image(image) if image.channels == 3));
}

#[test]
fn the_only_array_feeds_the_only_input() {
    let wide = [input("input_1", Dtype::F32, &[0, 2])];
    let arrays = |set: Npz| match set.sample(1).unwrap() {
        Sample::Arrays(arrays) => arrays,
        Sample::Image(_) => panic!("arrays"),
    };
    let expected =
        [("input_1".to_owned(), Array::new(vec![2], Values::F32(vec![2.0, 3.0])).unwrap())];
    assert_eq!(
        arrays(
            feed(&[("arr_0", npy("<f4", "(3, 2)", false, &floats(6)))], "train", &wide).unwrap()
        ),
        expected
    );
    let file = save(&npy("<f4", "(3, 2)", false, &floats(6)));
    assert_eq!(arrays(open(file.path(), "train", Some(&wide), &Silent).unwrap()), expected);
    let two = [
        ("a", npy("<f4", "(3, 2)", false, &floats(6))),
        ("b", npy("<f4", "(3, 2)", false, &floats(6))),
    ];
    let error = feed(&two, "train", &wide).err().unwrap();
    assert!(
        error
            .chain()
            .contains("expected an array for input `input_1`, found `a` (float32 [3, 2]), `b`"),
        "{}",
        error.chain()
    );
}

#[test]
fn fortran_order_and_big_endian_rows_are_the_same_rows() {
    // element [n, a, b] is 6·n + 3·a + b
    let order = [0u16, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11];
    let data: Vec<u8> = order.iter().flat_map(|&v| f32::from(v).to_be_bytes()).collect();
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let file = write(&[("x", npy(">f4", "(2, 2, 3)", true, &data))], method);
        let set = open(file.path(), "train", None, &Silent).unwrap();
        for n in 0..2u16 {
            let Sample::Arrays(arrays) = set.sample(n.into()).unwrap() else { panic!("arrays") };
            assert_eq!(
                arrays[0].1,
                Array::new(vec![2, 3], Values::F32((6 * n..6 * n + 6).map(f32::from).collect()))
                    .unwrap()
            );
        }
    }
}

#[test]
fn damaged_archives_are_refused() {
    let whole = std::fs::read(write(&example(), CompressionMethod::Deflated).path()).unwrap();
    for keep in [0, 10, whole.len() / 2, whole.len() - 1] {
        assert!(
            open(save(&whole[..keep]).path(), "train", None, &Silent).is_err(),
            "cut to {keep}"
        );
    }
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x41;
        // an error or a set, never a panic
        if let Ok(set) = open(save(&bytes).path(), "train", None, &Silent) {
            for index in 0..set.len().min(4) {
                let _ = set.sample(index);
            }
        }
    }
}
