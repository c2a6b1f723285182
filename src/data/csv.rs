//! A table of image files and their labels: `.csv` or `.tsv`, with a header.

use super::fingerprint::Listed;
use super::folder::{ImageFolder, shown_path};
use super::labels::Labels;
use super::listing::{ImageEntry, Listing};
use super::tree::list;
use super::{open_file, split as parts};
use crate::data::spec::{Columns, DataFormat};
use crate::error::{Context, Error, Result, shown};
use crate::monitor::Monitor;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Largest table, in bytes.
const MAX_FILE: u64 = 1 << 30;
/// Longest header, in bytes.
const MAX_HEADER: u64 = 1 << 16;
/// Names of the column of paths, in lower case.
const PATHS: [&str; 7] =
    ["path", "file", "filename", "file_name", "image", "image_path", "filepath"];
/// Names of the column of labels, in lower case; the first one wins.
const LABELS: [&str; 5] = ["label", "class", "category", "target", "y"];

/// Whether a file's name is that of a table.
pub(super) fn is_named(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    ["csv", "tsv"].iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// A row: the path of its image, and its label as text.
struct Row {
    path: Vec<u8>,
    label: Option<String>,
}

/// Reads the rows of a split, and looks for the file of each.
pub(super) fn open(
    path: &Path,
    split: &str,
    asked: &Columns,
    monitor: &dyn Monitor,
) -> Result<ImageFolder> {
    let name = shown_path(path);
    let (file, length) = open_file(path)?;
    if length > MAX_FILE {
        return Err(Error::input(format!(
            "data {name}: expected at most {MAX_FILE} bytes, found {length}"
        )));
    }
    let (rows, source) = rows(file, path, &name, split, asked)?;
    let root = path.parent().unwrap_or(Path::new("")).to_owned();
    let entries = entries(&root, &rows, &name)?;
    let texts: Vec<Option<String>> = rows.into_iter().map(|row| row.label).collect();
    let row_name = |at: usize| {
        let path = entries.get(at).map(|entry| shown(&entry.path)).unwrap_or_default();
        format!("data {name}: {path}")
    };
    let labels = Labels::of_texts(&texts, row_name)?;
    let count = entries.len();
    let from = source.map_or_else(|| "no labels".to_owned(), |source| labels.line(&source));
    monitor.note(&format!("data {name}: {count} rows, {from}"));
    let distinct = entries.iter().map(|entry| &entry.path).collect::<HashSet<_>>().len();
    if distinct < count {
        monitor.warn(&format!("data {name}: {} rows name a file again", count - distinct));
    }
    let mut listed = Listed::new();
    for (entry, label) in entries.iter().zip(&labels.values) {
        listed.file(&entry.path, entry.size);
        listed.bytes(&label.to_le_bytes());
    }
    for class in &labels.classes {
        listed.bytes(class.as_bytes());
    }
    let fingerprint = listed.finish(DataFormat::Csv, count);
    let Labels { values: labels, classes } = labels;
    Ok(ImageFolder { root, listing: Listing { entries, labels, classes, fingerprint } })
}

/// The rows of a split, and the name of the column of labels.
fn rows(
    mut file: File,
    path: &Path,
    name: &str,
    split: &str,
    asked: &Columns,
) -> Result<(Vec<Row>, Option<String>)> {
    let unreadable = || format!("data {name}: cannot be read");
    let mut head = Vec::new();
    BufReader::new(&file).take(MAX_HEADER).read_until(b'\n', &mut head).context(unreadable)?;
    file.rewind().context(unreadable)?;
    let tabs = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tsv"));
    // spreadsheets write `;` where a comma is the decimal point
    let count = |mark: u8| head.split(|&b| b == mark).count();
    let delimiter = if tabs || count(b'\t') > count(b',') {
        b'\t'
    } else if count(b';') > count(b',') {
        b';'
    } else {
        b','
    };
    let mut table =
        csv::ReaderBuilder::new().delimiter(delimiter).from_reader(BufReader::new(file));
    let header: Vec<String> = table
        .byte_headers()
        .context(unreadable)?
        .iter()
        .map(|field| {
            let field = field.strip_prefix(b"\xef\xbb\xbf").unwrap_or(field);
            String::from_utf8_lossy(field.trim_ascii()).into_owned()
        })
        .collect();
    let find = |what, key, asked, known| column(&header, name, what, key, asked, known);
    let paths = find("paths", "image", asked.image.as_deref(), &PATHS)?.ok_or_else(|| {
        Error::input(format!(
            "data {name}: expected a column of paths ({}), found {}",
            PATHS.join(", "),
            list(header.iter())
        ))
        .hint("name it: --data 'csv:FILE#image=COLUMN'")
    })?;
    let labels = find("labels", "label", asked.label.as_deref(), &LABELS)?;
    let splits = find("splits", "split", None, &["split"])?;
    let wanted = parts::named(split.as_bytes()).map(|named| named.part);
    let (mut rows, mut there) = (Vec::new(), BTreeSet::new());
    for (number, record) in table.byte_records().enumerate() {
        let record = record.context(unreadable)?;
        let field = |column| record.get(column).unwrap_or_default().trim_ascii();
        if let Some(splits) = splits {
            let found = field(splits);
            if there.len() < 64 {
                there.insert(found.to_vec());
            }
            let part = parts::named(found).map(|named| named.part);
            if found != split.as_bytes() && (part.is_none() || part != wanted) {
                continue;
            }
        }
        let path = field(paths);
        if path.is_empty() {
            return Err(Error::input(format!(
                "data {name}: row {number}: expected a path, found none"
            )));
        }
        let label = labels.map(|labels| {
            String::from_utf8(field(labels).to_vec()).map_err(|_| {
                Error::input(format!("data {name}: row {number}: expected a label, found no text"))
            })
        });
        rows.push(Row { path: path.to_vec(), label: label.transpose()? });
    }
    if splits.is_none() {
        parts::check(name, split)?;
    }
    if rows.is_empty() && !there.is_empty() {
        return Err(Error::input(format!(
            "data {name}: no split `{split}`, found {}",
            list(there.iter())
        )));
    }
    let source = labels.and_then(|labels| header.get(labels));
    Ok((rows, source.map(|source| format!("`{}`", shown(source.as_bytes())))))
}

/// The column with the name that was asked for, else with one of the names that are known, the
/// first of which wins.
fn column(
    header: &[String],
    name: &str,
    what: &str,
    key: &str,
    asked: Option<&str>,
    known: &[&str],
) -> Result<Option<usize>> {
    let mut found: BTreeMap<usize, &String> = BTreeMap::new();
    for (place, field) in header.iter().enumerate() {
        let is_it = match asked {
            Some(asked) => field == asked,
            None => known.iter().any(|known| field.eq_ignore_ascii_case(known)),
        };
        if is_it {
            found.insert(place, field);
        }
    }
    let first: Vec<usize> = found
        .iter()
        .filter(|(_, field)| known == LABELS && field.eq_ignore_ascii_case(LABELS[0]))
        .map(|(place, _)| *place)
        .collect();
    match (found.len(), asked, first.as_slice()) {
        (1, ..) => Ok(found.keys().next().copied()),
        (_, None, [first]) => Ok(Some(*first)),
        (0, None, _) => Ok(None),
        (0, Some(asked), _) => Err(Error::input(format!(
            "data {name}: expected a column `{}`, found {}",
            shown(asked.as_bytes()),
            list(header.iter())
        ))),
        _ => Err(Error::input(format!(
            "data {name}: expected one column of {what}, found {}",
            list(found.values().copied())
        ))
        .hint(format!("name it: --data 'csv:FILE#{key}=COLUMN'"))),
    }
}

/// The file of each row.
fn entries(root: &Path, rows: &[Row], name: &str) -> Result<Vec<ImageEntry>> {
    let mut entries = Vec::with_capacity(rows.len());
    let mut missing: Vec<&[u8]> = Vec::new();
    for row in rows {
        let file = root.join(OsStr::from_bytes(&row.path));
        match std::fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() => {
                entries.push(ImageEntry {
                    path: row.path.clone(),
                    size: metadata.len(),
                    offset: 0,
                });
            }
            Ok(_) => {
                return Err(Error::input(format!(
                    "data {name}: expected a file, found {} to be none",
                    shown_path(&file)
                )));
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                missing.push(&row.path);
            }
            Err(e) => {
                return Err(e).context(|| format!("data {}: cannot be read", shown_path(&file)));
            }
        }
    }
    match missing.first() {
        None => Ok(entries),
        Some(first) => Err(Error::input(format!(
            "data {name}: expected the files of {} rows, {} of them missing, the first {}",
            rows.len(),
            missing.len(),
            shown(first)
        ))
        .hint("paths are relative to the folder of the table")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, hashed_names};
    use crate::monitor::Silent;

    /// A folder of images `0.png` to `3.png`.
    fn images() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("images")).unwrap();
        for gray in 0..4 {
            let path = folder.path().join(format!("images/{gray}.png"));
            ::image::GrayImage::from_pixel(3, 2, ::image::Luma([gray])).save(path).unwrap();
        }
        folder
    }

    fn read(folder: &tempfile::TempDir, text: &[u8], split: &str) -> Result<Box<dyn Dataset>> {
        std::fs::write(folder.path().join("x.csv"), text).unwrap();
        spec(folder, "x.csv", split)
    }

    fn spec(folder: &tempfile::TempDir, file: &str, split: &str) -> Result<Box<dyn Dataset>> {
        let spec = format!("csv:{}/{file}", folder.path().display());
        crate::data::open(&spec.parse().unwrap(), split, &Silent)
    }

    fn samples(set: &dyn Dataset) -> Vec<(String, i64)> {
        (0..set.len()).map(|index| (set.name(index), set.label(index))).collect()
    }

    #[test]
    fn rows_are_read_in_order() {
        let folder = images();
        let text =
            b"\xef\xbb\xbfFileName,Label,note\nimages/3.png,2,a\n\"images/0.png\",0,\"b,c\"\n";
        let set = read(&folder, text, "test").unwrap();
        assert_eq!(samples(&*set), [("images/3.png".into(), 2), ("images/0.png".into(), 0)]);
        assert!(set.classes().is_empty() && set.sample(1).is_ok());
        assert_eq!(set.content(0).unwrap().unwrap().0.len(), 16);
        // another label is another sample
        let names = hashed_names(&*set).unwrap();
        let text = b"path;class\nimages/3.png;dog\nimages/0.png;cat\nimages/1.png;\n";
        let named = read(&folder, text, "train").unwrap();
        assert_eq!(samples(&*named).iter().map(|s| s.1).collect::<Vec<_>>(), [1, 0, -1]);
        assert_eq!(named.classes(), ["cat", "dog"]);
        assert_ne!(hashed_names(&*named).unwrap()[..2], names[..]);
        std::fs::write(folder.path().join("x.tsv"), "image\timages\nimages/1.png\t4\n").unwrap();
        let set = spec(&folder, "x.tsv", "train").unwrap();
        assert_eq!(samples(&*set), [("images/1.png".into(), -1)]);
        let set = spec(&folder, "x.tsv#label=images", "train").unwrap();
        assert_eq!(samples(&*set), [("images/1.png".into(), 4)]);
    }

    #[test]
    fn a_column_of_splits_selects_rows() {
        let folder = images();
        let text = b"split,path\ntrain,images/0.png\nTest,images/1.png\nval,images/2.png\n\
              fold1,images/3.png\n";
        for (split, name) in [
            ("train", "images/0.png"),
            ("test", "images/1.png"),
            ("valid", "images/2.png"),
            ("fold1", "images/3.png"),
        ] {
            let set = read(&folder, text, split).unwrap();
            assert_eq!(samples(&*set), [(name.to_owned(), -1)]);
        }
        let error = read(&folder, text, "fold2").err().unwrap().to_string();
        assert!(error.contains("no split `fold2`, found Test, fold1, train, val"), "{error}");
    }

    #[test]
    fn bad_tables_are_refused() {
        let folder = images();
        for (text, what) in [
            (&b"a,b\n1,2\n"[..], "expected a column of paths"),
            (b"path,file\n1,2\n", "expected one column of paths, found path, file"),
            (b"path,class,y\nimages/0.png,2,3\n", "expected one column of labels, found class, y"),
            (b"path,label,label\nimages/0.png,2,3\n", "found label, label"),
            (
                b"path\nimages/0.png\nnone.png\nnothing.png\n",
                "3 rows, 2 of them missing, the first none.png",
            ),
            (b"path\nimages\n", "to be none"),
            (b"path,label\n,1\n", "row 0: expected a path, found none"),
            (b"path,label\nimages/0.png,-2\n", "images/0.png: expected a label from 0"),
            (b"path,label\nimages/0.png,\xff\n", "row 0: expected a label, found no text"),
            (b"path,label\nimages/0.png,1,2\n", "cannot be read"),
            (b"path,label\nimages/0.png\n", "cannot be read"),
            (b"path\n", "expected at least one sample"),
            (b"", "expected a column of paths"),
        ] {
            let error = read(&folder, text, "train").err().unwrap();
            assert_eq!(error.kind(), crate::error::Kind::Input);
            assert!(error.to_string().contains(what), "{}", error.chain());
        }
        let text = b"path,class,label\nimages/0.png,2,3\n";
        assert_eq!(read(&folder, text, "train").unwrap().label(0), 3);
    }
}
