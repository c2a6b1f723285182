//! Folders and archives as they are opened, with real image files.

use super::*;
use std::path::PathBuf;
use std::sync::Mutex;

fn png(gray: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    ::image::GrayImage::from_pixel(3, 2, ::image::Luma([gray]))
        .write_to(&mut bytes, ::image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn folder(files: &[(&str, u8)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, gray) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, png(*gray)).unwrap();
    }
    folder
}

fn archive(files: &[(&str, u8)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (path, gray) in files {
        append(&mut builder, path, &png(*gray), ::tar::EntryType::Regular);
    }
    builder.into_inner().unwrap()
}

fn append(builder: &mut ::tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], kind: ::tar::EntryType) {
    let mut header = ::tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_entry_type(kind);
    // by hand, since the writer refuses hostile paths
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    builder.append(&header, bytes).unwrap();
}

/// A file with this name and these bytes, and the folder that holds it.
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

/// Name, label and gray value of every sample.
fn contents(set: &dyn Dataset) -> Vec<(String, i64, u8)> {
    let gray = |index| match set.sample(index).unwrap() {
        Sample::Image(image) => image.pixels[0],
        Sample::Arrays(_) => panic!("an image"),
    };
    (0..set.len()).map(|i| (set.name(i), set.label(i), gray(i))).collect()
}

const FILES: [(&str, u8); 4] =
    [("dog/1.png", 4), ("cat/b.png", 2), ("cat/a.PNG", 1), ("cat/deep/er/c.png", 3)];

fn expected() -> Vec<(String, i64, u8)> {
    [("cat/a.PNG", 0, 1), ("cat/b.png", 0, 2), ("cat/deep/er/c.png", 0, 3), ("dog/1.png", 1, 4)]
        .map(|(path, label, gray)| (path.to_owned(), label, gray))
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
    let dotted: Vec<_> = FILES.iter().map(|(path, gray)| (format!("./{path}"), *gray)).collect();
    let topped: Vec<_> =
        FILES.iter().map(|(path, gray)| (format!("./photos/{path}"), *gray)).collect();
    let split: Vec<_> =
        FILES.iter().map(|(path, gray)| (format!("photos/test/{path}"), *gray)).collect();
    for (files, what) in
        [(dotted, "./"), (topped, "a top folder"), (split, "a top folder and a split")]
    {
        let files: Vec<_> = files.iter().map(|(path, gray)| (path.as_str(), *gray)).collect();
        let plain = archive(&files);
        for saved in
            [save("d.tar", &plain), save("d.tar.gz", &gzip(&plain)), save("d.tgz", &gzip(&plain))]
        {
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
        assert!(
            error(path, "test").contains("no split `test`, found train, val"),
            "{}",
            error(path, "test")
        );
    }
    let undivided = self::folder(&FILES);
    assert_eq!(open_path(undivided.path(), "test").unwrap().len(), 4);
    assert!(
        error(undivided.path(), "tset").contains("expected split train, test or val, found `tset`")
    );
}

#[test]
fn flat_images_are_unlabeled_and_empty_classes_count() {
    let flat = folder(&[("b.png", 2), ("a.png", 1)]);
    let set = open_path(flat.path(), "train").unwrap();
    assert_eq!(contents(&*set), [("a.png".to_owned(), -1, 1), ("b.png".to_owned(), -1, 2)]);
    assert!(set.classes().is_empty());
    let classes = folder(&[("a/1.png", 1), ("c/1.png", 2)]);
    std::fs::create_dir(classes.path().join("b")).unwrap();
    let set = open_path(classes.path(), "train").unwrap();
    assert_eq!((set.classes(), set.label(1)), (["a", "b", "c"].map(String::from).as_slice(), 2));
    assert_eq!(subset(set, Some(1), None).missing_classes(), ["c"]);
    assert!(
        error(folder(&[("a/1.png", 1), ("1.png", 2)]).path(), "train")
            .contains("found 1.png next to them")
    );
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
    fails(
        "d.tar",
        &whole[..1024 + 300],
        "expected the header of a tar entry after byte 1024, found the end",
    );
    fails("d.tar", &whole[..4 * 1024], "expected an end-of-archive block");
    fails("d.tar", &vec![7; 2000], "found another file");
    fails("d.tar", b"", "found an empty file");
    let packed = gzip(&whole);
    fails("d.tar.gz", &packed[..packed.len() / 2], "cannot be unpacked");
    let mut lie = whole.clone();
    // the size field of the first header, in octal: 8 GiB
    lie[124..135].copy_from_slice(b"77777777777");
    let sum: u32 =
        lie[..148].iter().chain(b"        ").chain(&lie[156..512]).map(|&b| u32::from(b)).sum();
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
    assert!(error(folder.path(), "train").contains("cat/loop: a link to a folder that holds it"));
}

#[test]
fn a_bare_path_is_recognized() {
    let format = |files: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        recognize(folder.path(), &crate::monitor::Silent).unwrap()
    };
    assert_eq!(format(&["emnist-train-images-idx3-ubyte.gz"]), DataFormat::Idx);
    assert_eq!(format(&["data_batch_1.bin"]), DataFormat::Cifar10);
    assert_eq!(format(&["train.bin", "fine_label_names.txt"]), DataFormat::Cifar100);
    assert_eq!(format(&["train.bin"]), DataFormat::Folder);
    assert_eq!(recognize(&save("x.NPZ", b"").1, &crate::monitor::Silent).unwrap(), DataFormat::Npz);
    assert!(
        error(&save("x.zip", b"").1, "train")
            .contains("expected a folder, .tar, .tar.gz, .tgz, .zip, .npz, .parquet or .csv")
    );
    assert!(
        error(Path::new("/no/such/place"), "train").contains("data /no/such/place: cannot be read")
    );
}

/// A monitor that keeps what it is told.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Monitor for Heard {
    fn begin(&self, _: &str, _: &'static str, _: u64, _: u64) {}
    fn advance(&self, _: u64, _: u64) {}
    fn status(&self, _: &str) {}
    fn end(&self) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(format!("note: {text}"));
    }
    fn warn(&self, text: &str) {
        self.0.lock().unwrap().push(format!("warning: {text}"));
    }
    fn stop_requested(&self) -> bool {
        false
    }
}

/// Makes a folder with these paths: `…/` is an empty folder, `….png` and the like are images,
/// anything else is a text file.
fn tree(paths: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, path) in paths.iter().enumerate() {
        let at = folder.path().join(path);
        if path.ends_with('/') {
            std::fs::create_dir_all(at).unwrap();
            continue;
        }
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        let bytes = if names::has_image_ending(path.as_bytes()) {
            png(u8::try_from(number).unwrap())
        } else {
            b"text".to_vec()
        };
        std::fs::write(at, bytes).unwrap();
    }
    folder
}

/// The same as a .tar and as a .zip of stored and of deflated files.
fn packed(folder: &Path) -> [Saved; 3] {
    let mut tar = ::tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    tar.append_dir_all("", folder).unwrap();
    let zip = |method| {
        let mut zip = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = ::zip::write::SimpleFileOptions::default().compression_method(method);
        let mut open = vec![folder.to_path_buf()];
        while let Some(below) = open.pop() {
            for item in std::fs::read_dir(below).unwrap() {
                let path = item.unwrap().path();
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    zip.add_directory(name, options).unwrap();
                    open.push(path);
                } else if path.exists() {
                    zip.start_file(name, options).unwrap();
                    std::io::Write::write_all(&mut zip, &std::fs::read(path).unwrap()).unwrap();
                }
            }
        }
        zip.finish().unwrap().into_inner()
    };
    [
        save("d.tar", &tar.into_inner().unwrap()),
        save("d.zip", &zip(::zip::CompressionMethod::Stored)),
        save("d.zip", &zip(::zip::CompressionMethod::Deflated)),
    ]
}

/// What is read from a tree, the same from the folder and from its archives: `class/name, …` or
/// `name, …`, and the messages.
fn read(paths: &[&str], split: &str) -> (Result<String, String>, Vec<String>) {
    let folder = tree(paths);
    let saved = packed(folder.path());
    let read = |path: &Path| {
        let heard = Heard::default();
        let spec = format!("folder:{}", path.display());
        // an archive's folder is named in another way
        let plain = |text: String| {
            let text =
                text.replace(" of the unpacked archive", "").replace("--data folder:", "--data D/");
            text.replace(&format!("D/{}", path.display()), "D")
                .replace(&spec, "D")
                .replace(path.to_str().unwrap(), "D")
        };
        let opened = open(&spec.parse().unwrap(), split, &heard);
        let answer = opened
            .map(|set| (contents(&*set), set.classes().to_vec(), set.fingerprint().clone()))
            .map_err(|e| plain(e.chain()));
        (answer, heard.0.into_inner().unwrap().into_iter().map(plain).collect::<Vec<_>>())
    };
    let first = read(folder.path());
    for other in &saved {
        assert_eq!(read(&other.1), first, "{}: {paths:?}", other.1.display());
    }
    let text = |(samples, classes, _): (Vec<(String, i64, u8)>, Vec<String>, Fingerprint)| {
        let labeled = |(name, label, _): (String, i64, u8)| match usize::try_from(label) {
            Ok(label) => {
                assert!(name.starts_with(&format!("{}/", classes[label])), "{name}: {label}");
                name
            }
            Err(_) => format!("?{name}"),
        };
        format!(
            "{} [{}]",
            samples.into_iter().map(labeled).collect::<Vec<_>>().join(" "),
            classes.join(" ")
        )
    };
    (first.0.map(text), first.1)
}

#[test]
fn splits_and_wrappers_are_no_classes() {
    for (paths, split, expected) in [
        (
            &["Train/a/1.png", "Train/b/2.png", "Test/a/3.png", "Test/b/4.png"][..],
            "train",
            "a/1.png b/2.png [a b]",
        ),
        (
            &["Training/a/1.png", "Training/b/2.png", "Testing/a/3.png", "Testing/b/4.png"],
            "test",
            "a/3.png b/4.png [a b]",
        ),
        (
            &["train2017/a/1.png", "train2017/b/2.png", "val2017/a/3.png", "val2017/b/4.png"],
            "val",
            "a/3.png b/4.png [a b]",
        ),
        (
            &["train2017/a/1.png", "val2017/a/3.png", "val2017/b/3.png"],
            "val2017",
            "a/3.png b/3.png [a b]",
        ),
        (
            &["dataset/a/1.png", "dataset/b/2.png", "README.md", "labels.csv"],
            "train",
            "a/1.png b/2.png [a b]",
        ),
        (&["x/y/z/a/1.png", "x/y/z/b/2.png"], "test", "a/1.png b/2.png [a b]"),
        (
            &[
                "archive/Data/TRAIN/a/1.png",
                "archive/Data/TRAIN/b/2.png",
                "archive/Data/TEST/a/1.png",
            ],
            "train",
            "a/1.png b/2.png [a b]",
        ),
        // as in Kaggle's copy of Intel's scenes
        (
            &[
                "seg_train/seg_train/a/1.png",
                "seg_train/seg_train/b/2.png",
                "seg_test/seg_test/a/3.png",
                "seg_test/seg_test/b/4.png",
                "seg_pred/seg_pred/5.png",
            ],
            "test",
            "a/3.png b/4.png [a b]",
        ),
        // as YOLO lays out images and labels
        (
            &["images/train/1.png", "images/val/2.png", "labels/train/1.txt", "labels/val/2.txt"],
            "train",
            "?1.png []",
        ),
        (
            &[
                "train/images/1.png",
                "train/labels/1.txt",
                "valid/images/2.png",
                "valid/labels/2.txt",
                "data.yaml",
            ],
            "val",
            "?2.png []",
        ),
        // flat splits; a flat test split beside a labeled training split
        (&["train/1.png", "test/2.png"], "test", "?2.png []"),
        (&["train/a/1.png", "train/b/2.png", "test/3.png"], "test", "?3.png []"),
        // a class of railway pictures, and folders that are not classes
        (&["bus/1.png", "train/2.png"], "train", "bus/1.png train/2.png [bus train]"),
        (
            &["fold1/a/1.png", "fold1/b/1.png", "fold2/a/1.png", "fold2/b/1.png"],
            "fold1",
            "a/1.png b/1.png [a b]",
        ),
        (&["photos/1.png", "photos/2.png"], "train", "?1.png ?2.png []"),
        (&["1.png", "2.png", "labels.csv"], "train", "?1.png ?2.png []"),
        (&["a/x/y/1.png", "b/2.png"], "train", "a/x/y/1.png b/2.png [a b]"),
        // system files, files that accompany images, and a possible class
        (
            &[
                "a/1.png",
                "b/2.png",
                "@eaDir/3.png",
                "a/@eaDir/4.png",
                "lost+found/",
                "$RECYCLE.BIN/5.png",
                ".x/6.png",
                "b/Thumbs.db",
            ],
            "train",
            "a/1.png b/2.png [a b]",
        ),
        (
            &["b/1.png", "c/2.png", "annotations/1.xml", "annotations/x/2.json"],
            "train",
            "b/1.png c/2.png [b c]",
        ),
        (&["b/1.png", "c/2.png", "aa/", "d/3.heic"], "train", "b/1.png c/2.png [aa b c d]"),
    ] {
        assert_eq!(read(paths, split).0.as_deref(), Ok(expected), "{paths:?}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused_with_the_choices() {
    for (paths, split, expected) in [
        (
            &["train/a/1.png", "train2017/a/2.png"][..],
            "train",
            &["split `train`", "train, train2017"][..],
        ),
        (
            &["Training/a/1.png", "Testing/a/2.png"],
            "val",
            &["no split `val`, found Testing, Training"],
        ),
        (&["train/a/1.png"], "test", &["no split `test`, found train"]),
        (
            &["cat/1.png", "dog/1.png", "train/cat/1.png", "train/dog/1.png"],
            "train",
            &["train may be a split or a class", "cat, dog"],
        ),
        (
            &["cat/1.png", "train/1.png", "test/1.png"],
            "train",
            &["test, train may be a split or a class", "cat"],
        ),
        (
            &["cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/test/4.png"],
            "train",
            &["cat/test, cat/train, dog/test"],
        ),
        (&["a/1.png", "b/1.png", "preview.png"], "train", &["preview.png"]),
        (&["a/1.png", "b/1.png"], "trian", &["expected split train, test or val, found `trian`"]),
        (
            &["a/1.heic", "b/2.heic", "b/3"],
            "train",
            &["expected images", "found 2 .heic, 1 without an extension"],
        ),
        (&["a.tar", "b.tar"], "train", &["found 2 .tar"]),
        (&["a/"], "train", &["expected images", "found none"]),
    ] {
        let error = read(paths, split).0.expect_err(expected[0]);
        assert!(expected.iter().all(|part| error.contains(part)), "{paths:?}: {error}");
    }
}

/// Caches identify their data by this hash: data that is read as before keeps it.
#[test]
fn the_fingerprint_of_a_folder_never_changes() {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in
        [("a/1.png", &b"123"[..]), ("a-b/x/2.jpg", b"4567"), ("b/notes.txt", b"no image")]
    {
        let path = folder.path().join("train").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::create_dir(folder.path().join("train/c")).unwrap();
    for path in [folder.path().to_path_buf(), folder.path().join("train")] {
        let set = open_path(&path, "train").unwrap();
        assert_eq!(
            (set.classes(), set.fingerprint().listing_sha256.as_str()),
            (["a", "a-b", "c"].map(String::from).as_slice(), GOLDEN)
        );
    }
}
const GOLDEN: &str = "3606c8ecbc7f4da05df82d930fec34656c321a2420fcf232356b2e932a50722a";

#[test]
fn what_is_left_out_or_guessed_is_said() {
    let said = |paths: &[&str]| read(paths, "train").1;
    assert_eq!(said(&["a/1.png", "b/2.png"]), Vec::<String>::new());
    assert_eq!(
        said(&[
            "a/1.png",
            "a/1.heic",
            "b/2.png",
            "b/3.avif",
            "b/4.AVIF",
            "b/x.jpg?w=640",
            "b/file"
        ]),
        ["warning: data D: 5 files are left out: 2 .avif, 1 .heic, 1 with odd names, 1 \
             without an extension"]
    );
    assert_eq!(
        said(&["a/1.png", "b/2.png", "notes.md"]),
        ["note: data D: 1 file is left out: 1 .md"]
    );
    assert_eq!(
        said(&["1.png", "1.cls", "2.png", "2.cls"]),
        [
            "note: data D: 2 files are left out: 2 .cls",
            "warning: data D: the images are unlabeled: labels are the names of class folders; \
             not read as labels: 2 .cls"
        ]
    );
    let heard = said(&["a/1.png", "b/2.png", "aa/", "z/"]);
    assert_eq!(heard, ["warning: data D: classes without images keep their labels: aa, z"]);
    assert_eq!(
        said(&["Train/a/1.png", "Train/b/2.png", "Test/a/3.png"]),
        [
            "warning: data D: Train and Test do not have the same classes, so a label does not \
             mean the same in both; only in one: b",
            "note: data D: split `train` is the folder Train"
        ]
    );
    assert_eq!(
        said(&["x/a/1.png", "x/b/2.png", "labels/1.txt"]),
        [
            "note: data D: folders without images are left out: labels",
            "note: data D: all images are in the folder x, which is not a class"
        ]
    );
    assert_eq!(
        said(&["images/1.png", "masks/1.png"]),
        ["warning: data D: `images` is taken for a class; if all images are there: --data \
          D/images"]
    );
    let doubt = "warning: data D: every class holds the folders a, b; if these are the classes, \
                 name one folder: --data D/photo";
    assert_eq!(
        said(&["photo/a/1.png", "photo/b/2.png", "sketch/a/3.png", "sketch/b/4.png"]),
        [doubt]
    );
    assert_eq!(
        said(&["bus/1.png", "train/2.png"]),
        ["note: data D: train is taken for a class: it has no subfolders"]
    );
    assert_eq!(
        said(&["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "extra/1.png"]),
        ["note: data D: folders beside the splits test, train are left out: extra"]
    );
}

#[test]
fn links_are_followed_and_dead_ones_counted() {
    let folder = tree(&["a/1.png", "b/2.png"]);
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap();
    };
    link("../a/1.png", "b/3.png");
    link("../a", "b/more");
    link("/nonexistent.png", "a/dead.png");
    let [tar, ..] = packed(folder.path());
    let mut read = Vec::new();
    for path in [folder.path(), tar.1.as_path()] {
        let heard = Heard::default();
        let set =
            open(&format!("folder:{}", path.display()).parse().unwrap(), "train", &heard).unwrap();
        let heard: Vec<String> = heard
            .0
            .into_inner()
            .unwrap()
            .into_iter()
            .map(|t| t.replace(path.to_str().unwrap(), "D"))
            .collect();
        read.push((contents(&*set), heard, set.fingerprint().clone()));
    }
    assert_eq!(read[0], read[1]);
    let names: Vec<&str> = read[0].0.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["a/1.png", "b/2.png", "b/3.png", "b/more/1.png"]);
    assert_eq!(
        read[0].1,
        [
            "note: data D: links lead to folders that are read anyway, so their images count \
             again: b/more",
            "warning: data D: 2 files are left out: 2 broken (link)"
        ]
    );
    // a hard link is the file that it names, wherever it is
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::Link);
    header.set_size(0);
    builder.append_link(&mut header, "b/2.png", "a/1.png").unwrap();
    append(&mut builder, "a/1.png", &png(7), ::tar::EntryType::Regular);
    let saved = save("d.tar", &builder.into_inner().unwrap());
    let set = open_path(&saved.1, "train").unwrap();
    assert_eq!(contents(&*set), [("a/1.png".to_owned(), 0, 7), ("b/2.png".to_owned(), 1, 7)]);
}

#[test]
fn names_that_are_no_text_stay_apart_and_on_one_line() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = tempfile::tempdir().unwrap();
    for class in [&b"\xff"[..], b"\xfe", b"new\nline", b"\x1b[2J"] {
        let class = folder.path().join(std::ffi::OsStr::from_bytes(class));
        std::fs::create_dir(&class).unwrap();
        std::fs::write(class.join("1.png"), b"no image").unwrap();
    }
    let set = open_path(folder.path(), "train").unwrap();
    assert_eq!(set.classes(), ["\\u{1b}[2J", "new\\nline", "\\xfe", "\\xff"]);
    for index in 0..set.len() {
        let text = set.sample(index).unwrap_err().chain();
        assert!(
            text.contains(&set.name(index))
                && text.chars().all(|c| !c.is_control() && c != '\u{fffd}'),
            "{text}"
        );
    }
}

#[test]
fn nothing_of_an_archive_reaches_the_terminal() {
    let mut whole = archive(&FILES);
    // the second header is overwritten
    whole[1024..1024 + 512].fill(b'\x1b');
    let saved = save("d.tar", &whole);
    let text = error(&saved.1, "train");
    assert!(
        text.ends_with(
            "d.tar: expected the header of a tar entry after byte 1024, found other bytes"
        ),
        "{text}"
    );
    let packed = gzip(&archive(&FILES));
    let text = error(&save("d.tar.gz", &packed[..packed.len() / 2]).1, "train");
    assert!(text.chars().all(|c| !c.is_control()), "{text}");
    for (bytes, what) in [
        (&b"BZh91AY&SY"[..], "bzip2"),
        (b"\xfd7zXZ\0\0", "xz"),
        (b"\x28\xb5\x2f\xfd\0", "zstd"),
        (b"7z\xbc\xaf\x27\x1c", "7-zip"),
    ] {
        for name in ["d.tar", "d.tar.gz", "d.tar.bz2", "d"] {
            let text = error(&save(name, bytes).1, "train");
            assert!(text.ends_with(&format!("found {what}")), "{text}");
        }
    }
    // the name does not matter
    for name in ["d.tar.gz", "D.TAR", "d", "d.zip"] {
        assert_eq!(
            contents(&*open_path(&save(name, &archive(&FILES)).1, "train").unwrap()),
            expected()
        );
    }
}

#[test]
fn several_data_sets_in_a_folder_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for below in ["cifar-10-batches-bin", "cifar-100-binary"] {
        std::fs::create_dir(folder.path().join(below)).unwrap();
    }
    let text = error(folder.path(), "train");
    assert!(
        text.contains("expected one data set, found cifar10:") && text.contains("cifar100:"),
        "{text}"
    );
    let python = tempfile::tempdir().unwrap();
    let below = python.path().join("cifar-10-batches-py");
    std::fs::create_dir(&below).unwrap();
    std::fs::write(below.join("data_batch_1"), b"\x80\x04").unwrap();
    for path in [python.path(), below.as_path()] {
        assert_eq!(recognize(path, &crate::monitor::Silent).unwrap(), DataFormat::Cifar10);
        let spec = format!("folder:{}", path.display());
        assert!(
            open(&spec.parse().unwrap(), "train", &crate::monitor::Silent)
                .is_err_and(|e| e.to_string().contains("Python"))
        );
    }
}

/// A .zip with one stored file in each of two folders and changed bytes in both kinds of header:
/// `(offset in the local one, in the central one, value)`.
fn zipped(names: [&str; 2], changes: &[(usize, usize, u8)]) -> Vec<u8> {
    let mut zip = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = ::zip::write::SimpleFileOptions::default()
        .compression_method(::zip::CompressionMethod::Stored);
    for name in names {
        zip.start_file(name, options).unwrap();
        std::io::Write::write_all(&mut zip, &png(3)).unwrap();
    }
    let mut bytes = zip.finish().unwrap().into_inner();
    for start in 0..bytes.len() - 4 {
        for &(local, central, value) in changes {
            match &bytes[start..start + 4] {
                b"PK\x03\x04" => bytes[start + local] = value,
                b"PK\x01\x02" => bytes[start + central] = value,
                _ => {}
            }
        }
    }
    bytes
}

#[test]
fn zip_files_of_other_kinds_are_refused_by_name() {
    let names = ["a/1.png", "b/2.png"];
    let fails = |bytes: &[u8]| error(&save("d.zip", bytes).1, "train");
    assert!(
        fails(&zipped(names, &[(6, 8, 1)]))
            .contains("entry a/1.png: expected plain bytes, found encrypted ones")
    );
    assert!(
        fails(&zipped(names, &[(8, 10, 12)]))
            .contains("entry a/1.png: expected no compression or deflate, found")
    );
    assert!(
        fails(&zipped(["../a/1.png", "b/2.png"], &[]))
            .contains("expected a path inside the archive")
    );
    let whole = zipped(names, &[]);
    assert!(fails(&whole[..whole.len() / 2]).contains("cannot be read as a zip archive"));
    let set = open_path(&save("d.tar", &whole).1, "train").unwrap();
    assert_eq!(contents(&*set), [("a/1.png".to_owned(), 0, 3), ("b/2.png".to_owned(), 1, 3)]);
    // as written by some tools on Windows
    let mut parted = whole;
    for start in 0..parted.len() - 7 {
        if names.iter().any(|name| parted[start..].starts_with(name.as_bytes())) {
            parted[start + 1] = b'\\';
        }
    }
    assert_eq!(open_path(&save("d.zip", &parted).1, "train").unwrap().classes(), ["a", "b"]);
}

#[test]
fn a_folder_that_may_not_be_read_is_an_error() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tree(&["a/1.png", "b/2.png"]);
    let set = |mode| {
        std::fs::set_permissions(folder.path().join("b"), std::fs::Permissions::from_mode(mode))
            .unwrap();
    };
    set(0);
    // root may read everything
    let forbidden = std::fs::read_dir(folder.path().join("b")).is_err();
    let opened = open_path(folder.path(), "train");
    set(0o755);
    assert_eq!(opened.is_err_and(|e| e.to_string().ends_with("/b: cannot be read")), forbidden);
}
