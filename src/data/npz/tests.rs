use super::*;
use std::io::{Cursor, Write};
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
        zip.start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    save(&zip.finish().unwrap().into_inner())
}

fn save(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
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
        let set = open(file.path(), "train").unwrap();
        assert_eq!((set.len(), [0, 1, 2].map(|i| set.label(i))), (3, [2, -1, 0]));
        let Sample::Arrays(arrays) = set.sample(1).unwrap() else { panic!("arrays") };
        let expected = [
            ("mask".to_owned(), Array::new(vec![], Values::U8(vec![0])).unwrap()),
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
        let error = open(write(arrays, method).path(), "train").err().unwrap();
        assert!(error.chain().contains(what), "{what}: {}", error.chain());
    }
}

#[test]
fn headers_that_lie_are_refused() {
    fails(&[("x", npy("<f4", "(4, 2)", false, &floats(6)))], "expected 32 bytes of elements for shape [4, 2], found 24");
    fails(&[("x", npy("<f4", "(2, 2)", false, &floats(6)))], "found 24");
    fails(&[("x", npy("<f4", "(9223372036854775807, 9223372036854775807)", false, &floats(6)))], "a number of bytes");
    fails(&[("x", npy("<f4", "(4611686018427387904, 4)", false, &[]))], "bytes of elements");
    fails(&[("x", npy("<f4", "(1000000000000, 0)", false, &[]))], "bytes of elements");
    fails(&[("x", npy("<f4", "()", false, &floats(1)))], "found a single value");
    fails(&[("x", npy("<f4", "(3, 2)", true, &floats(6)))], "Fortran order");
    fails(&[("x", npy("|O", "(3, 2)", false, &floats(6)))], "element type");
    fails(&[("x", npy("<i2", "(3, 2)", false, &floats(3)))], "found i2");
    fails(&[("x", b"nonsense".to_vec())], "x: NPY header: expected the magic number");
    fails(&[("x", Vec::new())], "magic number");
}

#[test]
fn arrays_that_disagree_are_refused() {
    let x = ("x", npy("<f4", "(3, 2)", false, &floats(6)));
    fails(&[x.clone(), ("y", npy("<f4", "(2, 3)", false, &floats(6)))], "expected 3 rows as in x, found 2 in y");
    fails(&[x.clone(), ("labels", npy("<i8", "(1,)", false, &[0; 8]))], "expected 1 rows as in labels, found 3 in x");
    fails(&[x.clone(), ("labels", npy("<f4", "(3,)", false, &floats(3)))], "expected one integer a row, found f4");
    fails(&[x.clone(), ("labels", npy("|i1", "(3,)", false, &[0, 0xfe, 0]))], "row 1: expected a label from 0");
    fails(&[x, ("labels", npy("<u8", "(3,)", false, &[0xff; 24]))], "row 0: expected a label from 0");
    fails(&[("labels", npy("|i1", "(3,)", false, &[0; 3]))], "found none");
    fails(&[], "found none");
}

#[test]
fn damaged_archives_are_refused() {
    let whole = std::fs::read(write(&example(), CompressionMethod::Deflated).path()).unwrap();
    for keep in [0, 10, whole.len() / 2, whole.len() - 1] {
        assert!(open(save(&whole[..keep]).path(), "train").is_err(), "cut to {keep}");
    }
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x41;
        // an error or a set, never a panic
        if let Ok(set) = open(save(&bytes).path(), "train") {
            for index in 0..set.len().min(4) {
                let _ = set.sample(index);
            }
        }
    }
}
