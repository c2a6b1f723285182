//! Folders and archives as they are opened, with real image files.

use super::*;
use std::path::PathBuf;

fn png(grey: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    ::image::GrayImage::from_pixel(3, 2, ::image::Luma([grey])).write_to(&mut bytes, ::image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn folder(files: &[(&str, u8)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, grey) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, png(*grey)).unwrap();
    }
    folder
}

fn archive(files: &[(&str, u8)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (path, grey) in files {
        append(&mut builder, path, &png(*grey), ::tar::EntryType::Regular);
    }
    builder.into_inner().unwrap()
}

fn append(builder: &mut ::tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], kind: ::tar::EntryType) {
    let mut header = ::tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_entry_type(kind);
    // by hand, since hostile paths are refused by the writer
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    builder.append(&header, bytes).unwrap();
}

/// A file of this name with these bytes, and the folder that goes with it.
struct Saved(#[allow(dead_code, reason = "kept alive")] tempfile::TempDir, PathBuf);

fn save(name: &str, bytes: &[u8]) -> Saved {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    Saved(folder, path)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn open_path(path: &Path, split: &str) -> Result<Box<dyn Dataset>> {
    open(&path.to_str().unwrap().parse().unwrap(), split, &crate::monitor::Silent)
}

fn error(path: &Path, split: &str) -> String {
    open_path(path, split).err().expect("an error").chain()
}

/// Name, label and grey value of every sample.
fn contents(set: &dyn Dataset) -> Vec<(String, i64, u8)> {
    let grey = |index| match set.sample(index).unwrap() {
        Sample::Image(image) => image.pixels[0],
        Sample::Arrays(_) => panic!("an image"),
    };
    (0..set.len()).map(|i| (set.name(i), set.label(i), grey(i))).collect()
}

const FILES: [(&str, u8); 4] = [("dog/1.png", 4), ("cat/b.png", 2), ("cat/a.PNG", 1), ("cat/deep/er/c.png", 3)];

fn expected() -> Vec<(String, i64, u8)> {
    [("cat/a.PNG", 0, 1), ("cat/b.png", 0, 2), ("cat/deep/er/c.png", 0, 3), ("dog/1.png", 1, 4)]
        .map(|(path, label, grey)| (path.to_owned(), label, grey))
        .to_vec()
}

#[test]
fn a_folder_and_its_archives_are_the_same_data_set() {
    let folder = folder(&FILES);
    std::fs::write(folder.path().join("readme.txt"), "no image").unwrap();
    std::fs::write(folder.path().join("cat/._a.png"), "a file of the system").unwrap();
    let set = open_path(folder.path(), "train").unwrap();
    assert_eq!(contents(&*set), expected());
    assert_eq!(set.classes(), ["cat", "dog"]);
    assert_eq!((common_size(&*set), set.fingerprint().samples), (Some([2, 3]), 4));
    let dotted: Vec<_> = FILES.iter().map(|(path, grey)| (format!("./{path}"), *grey)).collect();
    let topped: Vec<_> = FILES.iter().map(|(path, grey)| (format!("./photos/{path}"), *grey)).collect();
    let split: Vec<_> = FILES.iter().map(|(path, grey)| (format!("photos/test/{path}"), *grey)).collect();
    for (files, what) in [(dotted, "./"), (topped, "a top folder"), (split, "a top folder and a split")] {
        let files: Vec<_> = files.iter().map(|(path, grey)| (path.as_str(), *grey)).collect();
        let plain = archive(&files);
        for saved in [save("d.tar", &plain), save("d.tar.gz", &gzip(&plain)), save("d.tgz", &gzip(&plain))] {
            let other = open_path(&saved.1, "test").unwrap();
            assert_eq!(contents(&*other), expected(), "{what}");
            assert_eq!(other.fingerprint(), set.fingerprint(), "{what}");
            assert_eq!(common_size(&*other), Some([2, 3]));
        }
    }
    let changed = open_path(&self::folder(&FILES[..3]).keep(), "train").unwrap();
    assert_ne!(changed.fingerprint(), set.fingerprint());
}

#[test]
fn splits_are_chosen_and_missing_ones_named() {
    let files = [("train/cat/1.png", 1), ("train/dog/1.png", 2), ("val/cat/1.png", 3)];
    let folder = folder(&files);
    let tar = save("d.tar", &archive(&files));
    for path in [folder.path(), tar.1.as_path()] {
        assert_eq!(contents(&*open_path(path, "val").unwrap()), [("cat/1.png".to_owned(), 0, 3)]);
        assert_eq!(open_path(path, "train").unwrap().classes(), ["cat", "dog"]);
        assert!(error(path, "test").contains("no split `test`, found train, val"), "{}", error(path, "test"));
    }
    let undivided = self::folder(&FILES);
    assert_eq!(open_path(undivided.path(), "test").unwrap().len(), 4);
    assert!(error(undivided.path(), "tset").contains("expected split train, test or val, found `tset`"));
}

#[test]
fn flat_images_are_unlabelled_and_empty_classes_count() {
    let flat = folder(&[("b.png", 2), ("a.png", 1)]);
    let set = open_path(flat.path(), "train").unwrap();
    assert_eq!(contents(&*set), [("a.png".to_owned(), -1, 1), ("b.png".to_owned(), -1, 2)]);
    assert!(set.classes().is_empty());
    let classes = folder(&[("a/1.png", 1), ("c/1.png", 2)]);
    std::fs::create_dir(classes.path().join("b")).unwrap();
    let set = open_path(classes.path(), "train").unwrap();
    assert_eq!((set.classes(), set.label(1)), (["a", "b", "c"].map(String::from).as_slice(), 2));
    assert_eq!(subset(set, Some(1), None).missing_classes(), ["b", "c"]);
    assert!(error(folder(&[("a/1.png", 1), ("1.png", 2)]).path(), "train").contains("found 1.png beside them"));
    assert!(error(folder(&[]).path(), "train").contains("expected images"));
}

#[test]
fn special_entries_of_an_archive_are_passed_over() {
    let mut builder = ::tar::Builder::new(Vec::new());
    append(&mut builder, "cat/link.png", b"", ::tar::EntryType::Symlink);
    append(&mut builder, "cat/device.png", b"", ::tar::EntryType::Char);
    append(&mut builder, "cat/1.png", &png(1), ::tar::EntryType::Regular);
    append(&mut builder, "dog/", b"", ::tar::EntryType::Directory);
    append(&mut builder, "/cat/1.png", &png(9), ::tar::EntryType::Regular);
    let saved = save("d.tar", &builder.into_inner().unwrap());
    let set = open_path(&saved.1, "train").unwrap();
    assert_eq!(contents(&*set), [("cat/1.png".to_owned(), 0, 9)]);
    assert_eq!(set.classes(), ["cat", "dog"]);
}

#[test]
fn long_paths_in_an_archive_are_whole() {
    let long = format!("cat/{}/1.png", "x".repeat(150));
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(png(5).len() as u64);
    builder.append_data(&mut header, &long, png(5).as_slice()).unwrap();
    append(&mut builder, "dog/1.png", &png(6), ::tar::EntryType::Regular);
    let saved = save("d.tar", &builder.into_inner().unwrap());
    assert_eq!(contents(&*open_path(&saved.1, "train").unwrap())[0], (long, 0, 5));
}

#[test]
fn damaged_archives_are_refused() {
    let whole = archive(&FILES);
    let fails = |name: &str, bytes: &[u8], what: &str| {
        let saved = save(name, bytes);
        let text = error(&saved.1, "train");
        assert!(text.contains(what) && text.contains(name), "{what}: {text}");
    };
    fails("d.tar", &whole[..1024 + 512 + 20], "entry cat/b.png: expected");
    fails("d.tar", &whole[..1024 + 300], "cannot be read as a tar archive");
    fails("d.tar", &whole[..4 * 1024], "expected an end-of-archive block");
    fails("d.tar", &vec![7; 2000], "cannot be read as a tar archive");
    fails("d.tar", b"", "end-of-archive");
    let packed = gzip(&whole);
    fails("d.tar.gz", &packed[..packed.len() / 2], "cannot be unpacked");
    let mut lie = whole.clone();
    // the size field of the first header, in octal: 8 GiB
    lie[124..135].copy_from_slice(b"77777777777");
    let sum: u32 = lie[..148].iter().chain(b"        ").chain(&lie[156..512]).map(|&b| u32::from(b)).sum();
    lie[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    fails("d.tar", &lie, "entry dog/1.png: expected 8589934591 bytes");
    let mut builder = ::tar::Builder::new(Vec::new());
    append(&mut builder, "cat/../../1.png", &png(1), ::tar::EntryType::Regular);
    fails("d.tar", &builder.into_inner().unwrap(), "expected a path inside the archive");
}

#[test]
fn an_unreadable_image_is_named() {
    let folder = folder(&[("cat/1.png", 1)]);
    std::fs::write(folder.path().join("cat/2.jpg"), b"\xff\xd8\xff\xe0 not really").unwrap();
    let set = open_path(folder.path(), "train").unwrap();
    assert!(set.sample(0).is_ok());
    let text = set.sample(1).unwrap_err().chain();
    assert!(text.contains("cat/2.jpg: the image is truncated"), "{text}");
    let mut builder = ::tar::Builder::new(Vec::new());
    append(&mut builder, "cat/3.png", b"junk", ::tar::EntryType::Regular);
    append(&mut builder, "dog/4.png", &png(1), ::tar::EntryType::Regular);
    let saved = save("d.tar", &builder.into_inner().unwrap());
    let text = open_path(&saved.1, "train").unwrap().sample(0).unwrap_err().chain();
    assert!(text.contains("d.tar: cat/3.png: expected a JPEG"), "{text}");
}

#[test]
fn links_that_lead_back_are_found() {
    let folder = folder(&[("cat/1.png", 1)]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("cat/loop")).unwrap();
    assert!(error(folder.path(), "train").contains("nested folders"));
}

#[test]
fn a_bare_path_is_recognised() {
    let format = |files: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        recognise(folder.path()).unwrap()
    };
    assert_eq!(format(&["emnist-train-images-idx3-ubyte.gz"]), DataFormat::Idx);
    assert_eq!(format(&["data_batch_1.bin"]), DataFormat::Cifar10);
    assert_eq!(format(&["train.bin", "fine_label_names.txt"]), DataFormat::Cifar100);
    assert_eq!(format(&["train.bin"]), DataFormat::Folder);
    assert_eq!(recognise(&save("x.NPZ", b"").1).unwrap(), DataFormat::Npz);
    assert!(error(&save("x.zip", b"").1, "train").contains("expected a folder, .tar, .tar.gz, .tgz or .npz"));
    assert!(error(Path::new("/no/such/place"), "train").contains("data /no/such/place: cannot be read"));
}
