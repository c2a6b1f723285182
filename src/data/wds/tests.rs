//! Shards as webdataset writes them.

use crate::data::{ContentHash, DataFormat, Dataset, Sample, hashed_names, open};
use crate::monitor::Silent;
use std::path::Path;

pub(super) fn png(gray: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    ::image::GrayImage::from_pixel(3, 2, ::image::Luma([gray]))
        .write_to(&mut bytes, ::image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (path, bytes) in members {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn read(path: &Path) -> crate::error::Result<Box<dyn Dataset>> {
    open(&format!("wds:{}", path.display()).parse().unwrap(), "train", &Silent)
}

/// Name, label and first pixel of each sample.
fn contents(dataset: &dyn Dataset) -> Vec<(String, i64, u8)> {
    let gray = |index| match dataset.sample(index).unwrap() {
        Sample::Image(image) => image.pixels[0],
        Sample::Arrays(_) => panic!("an image"),
    };
    (0..dataset.len()).map(|i| (dataset.name(i), dataset.label(i), gray(i))).collect()
}

#[test]
fn shards_are_read_in_order_and_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let first = tar(&[("b.png", &png(7)), ("b.cls", b"3\n"), ("a.cls", b"0"), ("a.png", &png(8))]);
    let second = tar(&[("b.png", &png(9)), ("c.txt", b"no image"), ("d.png", &png(10))]);
    std::fs::write(folder.path().join("x-0.tar"), &first).unwrap();
    std::fs::write(folder.path().join("x-1.tar"), &second).unwrap();
    let expected =
        [("x-0/b.png", 3, 7), ("x-0/a.png", 0, 8), ("x-1/b.png", -1, 9), ("x-1/d.png", -1, 10)]
            .map(|(name, label, gray)| (name.to_owned(), label, gray));
    let plain = read(folder.path()).unwrap();
    assert_eq!(contents(&*plain), expected);
    assert!(plain.classes().is_empty());
    assert_eq!(plain.content(1).unwrap(), Some(ContentHash::of(&png(8))));
    let braces = read(&folder.path().join("x-{0..1}.tar")).unwrap();
    assert_eq!(braces.fingerprint(), plain.fingerprint());

    // compressed or not: the same samples
    std::fs::write(folder.path().join("x-1.tar.gz"), gzip(&second)).unwrap();
    std::fs::remove_file(folder.path().join("x-1.tar")).unwrap();
    let packed = read(folder.path()).unwrap();
    assert_eq!(contents(&*packed), expected);
    assert_eq!(packed.fingerprint(), plain.fingerprint());
    assert_eq!(packed.stamp(3).unwrap().unwrap().size, gzip(&second).len() as u64);

    // another label is another data set, whose samples have other names
    let other = tar(&[("b.png", &png(7)), ("b.cls", b"4"), ("a.cls", b"0"), ("a.png", &png(8))]);
    let names = hashed_names(&*packed).unwrap();
    std::fs::write(folder.path().join("x-0.tar"), other).unwrap();
    let changed = read(folder.path()).unwrap();
    assert_ne!(changed.fingerprint(), packed.fingerprint());
    let changed = hashed_names(&*changed).unwrap();
    assert_eq!((names[0] == changed[0], &names[1..]), (false, &changed[1..]));
}

#[test]
fn labels_are_in_cls_or_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar");
    let labels = |members: &[(&str, &[u8])]| {
        std::fs::write(&path, tar(members)).unwrap();
        let set = read(&path).map_err(|error| error.chain())?;
        Ok::<_, String>((
            (0..set.len()).map(|i| set.label(i)).collect::<Vec<_>>(),
            set.classes().join(" "),
        ))
    };
    let image = png(1);
    let two = |ending: &'static str, first: &'static [u8], second: &'static [u8]| {
        let names = [format!("1.{ending}"), format!("2.{ending}")];
        let members: [(&str, &[u8]); 4] =
            [("1.png", &image), (&names[0], first), ("2.png", &image), (&names[1], second)];
        labels(&members)
    };
    assert_eq!(two("cls", b"dog", b"cat\n").unwrap(), (vec![1, 0], "cat dog".into()));
    assert_eq!(two("json", br#"{"cls": 5}"#, br#"{"cls": 2}"#).unwrap().0, [5, 2]);
    assert_eq!(
        two("json", br#"{"a": 5}"#, br#"{"label": "x"}"#).unwrap(),
        (vec![-1, 0], "x".into())
    );
    assert_eq!(two("json", b"[]", b"7").unwrap().0, [-1, -1]);
    for (found, what) in [
        (two("json", b"{", b"{}"), "1.json: expected JSON"),
        (
            two("json", br#"{"label": [1]}"#, b"{}"),
            "`label`: expected the number or the name of one class",
        ),
        (two("cls", b"-3", b"1"), "1.png: expected a label from 0, or -1 for none, found -3"),
        (two("cls", b"\xff", b"1"), "1.cls: expected the number or the name of a class"),
        (two("cls", &[b'1'; 5000], b"1"), "1.cls: expected at most 4096 bytes, found 5000"),
        (labels(&[("a", b"x"), ("b.txt", b"y")]), "found 1 .txt, 1 without an extension"),
    ] {
        let error = found.unwrap_err();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn truncated_shards_and_other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar");
    let whole = tar(&[("1.png", &png(1)), ("1.cls", b"3")]);
    for cut in (0..whole.len() - 1024).step_by(64) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = read(&path).err().unwrap();
        assert_eq!(error.kind(), crate::error::Kind::Input, "{cut}: {}", error.chain());
        std::fs::write(&path, gzip(&whole[..cut])).unwrap();
        assert!(read(&path).is_err());
    }
    std::fs::write(&path, b"PAR1 and more").unwrap();
    assert!(read(&path).err().unwrap().to_string().contains("found Parquet"));
    assert!(
        read(&folder.path().join("x-{0..2}.tar"))
            .err()
            .unwrap()
            .to_string()
            .contains("3 of them missing")
    );
}

#[test]
fn a_bare_path_is_recognized() {
    let folder = tempfile::tempdir().unwrap();
    let bare = |path: &Path| open(&path.to_str().unwrap().parse().unwrap(), "train", &Silent);
    let format = |path: &Path| bare(path).unwrap().fingerprint().format;
    let shard = tar(&[("1.png", &png(1)), ("1.cls", b"3")]);
    for (name, bytes) in [("00000.tar", shard.clone()), ("00001.tar.gz", gzip(&shard))] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(format(&path), DataFormat::Wds, "{name}");
    }
    assert_eq!(bare(folder.path()).unwrap().len(), 2);
    assert_eq!(format(&folder.path().join("{00000.tar,00001.tar.gz}")), DataFormat::Wds);
    let classes = folder.path().join("classes.tar");
    std::fs::write(&classes, tar(&[("cat/1.png", &png(1)), ("dog/1.png", &png(2))])).unwrap();
    assert_eq!(format(&classes), DataFormat::Folder);
}
