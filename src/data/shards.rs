//! The files of a data set that is cut into several: one file, those of a folder, or those that
//! braces name.

use super::braces::expand;
use super::folder::shown_path;
use super::names::is_system;
use super::split::{self, Part};
use super::tree::list;
use crate::error::{Context, Error, Result, shown};
use crate::monitor::Monitor;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Deepest folder below the named one that is searched.
const DEPTH: usize = 4;
/// Most files of a folder.
const MOST: usize = 1 << 17;

/// The files that a path names: itself, in the order of braces, or those of a split in a folder
/// with one of `endings`, in the order of their paths.
///
/// A folder has splits if its files' names, or those of the folders below it, have a split's word:
/// `train-00000-of-00003.parquet`, `val/0001.tar`. Files that are named one by one are taken whole.
///
/// # Errors
/// If there are none, some are missing, the split is, or the folder holds more than one data set.
pub(super) fn find(
    path: &Path,
    endings: &[&str],
    split: &str,
    monitor: &dyn Monitor,
) -> Result<Vec<PathBuf>> {
    let name = shown_path(path);
    if path.is_dir() {
        let files = in_folder(path, endings)?;
        return Ok(of_split(&files, &name, endings, split, monitor)?
            .into_iter()
            .map(|file| path.join(OsStr::from_bytes(file)))
            .collect());
    }
    split::check(&name, split)?;
    let pattern = path.to_str().filter(|text| !path.exists() && text.contains('{'));
    let Some(pattern) = pattern else {
        std::fs::metadata(path).context(|| format!("data {name}: cannot be read"))?;
        return Ok(vec![path.to_owned()]);
    };
    let files: Vec<PathBuf> = expand(pattern)?.into_iter().map(PathBuf::from).collect();
    let missing: Vec<_> = files.iter().filter(|file| !file.is_file()).collect();
    if missing.is_empty() {
        return Ok(files);
    }
    Err(Error::input(format!(
        "data {name}: expected {} files, {} of them missing: {}",
        files.len(),
        missing.len(),
        list(missing.iter().map(|file| file.as_os_str().as_bytes()))
    )))
}

/// The paths of a folder's files with one of the endings, relative to it, sorted.
pub(super) fn in_folder(folder: &Path, endings: &[&str]) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    below(folder, b"", DEPTH, endings, &mut found)?;
    found.sort();
    Ok(found)
}

fn below(
    folder: &Path,
    prefix: &[u8],
    depth: usize,
    endings: &[&str],
    found: &mut Vec<Vec<u8>>,
) -> Result<()> {
    let unreadable = || format!("data {}: cannot be read", shown_path(folder));
    for item in std::fs::read_dir(folder).context(unreadable)? {
        let item = item.context(unreadable)?;
        let (file, name) = (item.path(), item.file_name().into_vec());
        if is_system(&name) {
            continue;
        }
        let path = [prefix, &name].concat();
        if file.is_dir() {
            if depth > 1 {
                below(&file, &[&path, &b"/"[..]].concat(), depth - 1, endings, found)?;
            }
        } else if stem(&name, endings).len() < name.len() && file.is_file() {
            found.push(path);
            if found.len() > MOST {
                return Err(Error::input(format!(
                    "data {}: expected at most {MOST} files, found more",
                    shown_path(folder)
                )));
            }
        }
    }
    Ok(())
}

/// A file's name without the first of the endings that it has.
pub(super) fn stem<'a>(name: &'a [u8], endings: &[&str]) -> &'a [u8] {
    let has = |end: &&&str| {
        name.len() > end.len()
            && name[name.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes())
    };
    endings.iter().find(has).map_or(name, |end| &name[..name.len() - end.len()])
}

/// The files of a split; all of them if no name tells of splits.
fn of_split<'a>(
    files: &'a [Vec<u8>],
    name: &str,
    endings: &[&str],
    split: &str,
    monitor: &dyn Monitor,
) -> Result<Vec<&'a [u8]>> {
    if files.is_empty() {
        let endings = endings.join(", ");
        return Err(Error::input(format!("data {name}: expected files ({endings}), found none")));
    }
    let part = |path: &[u8]| {
        // the file's own name tells more than the folders above it
        let mut names = path.rsplit(|&b| b == b'/');
        let file = names.next().and_then(|file| split::named(stem(file, endings)));
        file.or_else(|| names.find_map(split::named)).map(|named| named.part)
    };
    let parts: Vec<Option<Part>> = files.iter().map(|file| part(file)).collect();
    let there: BTreeSet<Part> = parts.iter().copied().flatten().collect();
    let mut taken: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    if there.is_empty() {
        split::check(name, split)?;
    } else {
        if let Some(stray) = parts.iter().position(Option::is_none) {
            return Err(Error::input(format!(
                "data {name}: expected the word of a split in the name of every file or of none, \
                 found {} without one",
                shown(&files[stray])
            ))
            .hint("name the files that you mean, with braces"));
        }
        let wanted = split::named(split.as_bytes()).map(|named| named.part);
        if !wanted.is_some_and(|wanted| there.contains(&wanted)) {
            let names: Vec<&str> = there.iter().map(|part| part.name()).collect();
            return Err(Error::input(format!(
                "data {name}: no split `{split}`, found {}",
                names.join(", ")
            )));
        }
        taken = files
            .iter()
            .zip(&parts)
            .filter(|(_, part)| **part == wanted)
            .map(|(file, _)| file.as_slice())
            .collect();
    }
    let folders: BTreeSet<&[u8]> = taken.iter().map(|file| super::archive::parent(file)).collect();
    if folders.len() > 1 {
        return Err(Error::input(format!(
            "data {name}: expected the files of one folder, found those of {}",
            list(folders.iter().map(|folder| if folder.is_empty() {
                b".".as_slice()
            } else {
                folder
            }))
        ))
        .hint("name one of them"));
    }
    if !there.is_empty() {
        let count = taken.len();
        let files = if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
        let first = taken.first().map(|file| shown(file)).unwrap_or_default();
        monitor.note(&format!("data {name}: split `{split}` is {files}, the first {first}"));
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    #[test]
    fn files_are_found_by_folder_braces_and_split() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let save = |name: &str| {
            std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            std::fs::write(root.join(name), b"").unwrap();
        };
        let find = |path: &str, split: &str| {
            find(&root.join(path), &[".tar.gz", ".tar"], split, &Silent)
                .map(|files| {
                    let text =
                        |file: &PathBuf| file.strip_prefix(root).unwrap().display().to_string();
                    files.iter().map(text).collect::<Vec<_>>().join(" ")
                })
                .map_err(|error| error.to_string())
        };
        let refused = |path: &str, split: &str, what: &str| {
            let error = find(path, split).unwrap_err();
            assert!(error.contains(what), "{error}");
        };
        refused("", "train", "expected files (.tar.gz, .tar), found none");
        for name in ["data/x-train-1.tar", "data/x-train-0.tar.gz", "data/x-val-0.tar", "a.txt"] {
            save(name);
        }
        assert_eq!(find("", "train").unwrap(), "data/x-train-0.tar.gz data/x-train-1.tar");
        assert_eq!(find("data", "validation").unwrap(), "data/x-val-0.tar");
        refused("data", "test", "no split `test`, found train, val");
        assert_eq!(find("data/x-val-0.tar", "test").unwrap(), "data/x-val-0.tar");
        assert_eq!(
            find("data/x-{val-0,train-1}.tar", "train").unwrap(),
            "data/x-val-0.tar data/x-train-1.tar"
        );
        refused("data/x-train-{0..1}.tar", "train", "expected 2 files, 1 of them missing:");
        save("data/more.tar");
        refused("data", "train", "found more.tar without one");
        for name in ["plain/1.tar", "plain/0.TAR", "plain/.hidden.tar"] {
            save(name);
        }
        assert_eq!(find("plain", "test").unwrap(), "plain/0.TAR plain/1.tar");
        refused("plain", "none", "expected split train, test or val");
        save("plain/sub/3.tar");
        refused("plain", "train", "expected the files of one folder, found those of ., sub");
        save("parts/train/0.tar");
        save("parts/test/0.tar");
        assert_eq!(find("parts", "test").unwrap(), "parts/test/0.tar");
    }
}
