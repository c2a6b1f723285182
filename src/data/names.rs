//! What file and folder names tell: images, labels, notes, and system files.

/// Extensions of image files, in lower case.
pub(super) const IMAGES: [&str; 14] = [
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pnm",
    ".ppm", ".pgm", ".pbm",
];
/// Extensions of files that often hold the labels of images beside them.
const LABELS: [&str; 15] = [
    ".cls", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".txt", ".label", ".labels", ".lbl",
    ".yaml", ".yml", ".parquet", ".mat", ".pkl",
];
/// Extensions of other files that accompany images.
const NOTES: [&str; 22] = [
    ".md", ".rst", ".html", ".htm", ".pdf", ".doc", ".docx", ".rtf", ".log", ".py", ".pyc",
    ".ipynb", ".sh", ".bat", ".toml", ".ini", ".cfg", ".cache", ".db", ".bib", ".xls", ".xlsx",
];
/// Files and folders of operating systems, file servers and interpreters, in lower case.
const SYSTEM: [&str; 21] = [
    "__macosx",
    "__pycache__",
    "@eadir",
    "@tmp",
    "@recycle",
    "@recently-snapshot",
    "@sharebin",
    "@sharesnap",
    "@__thumb",
    "#recycle",
    "#snapshot",
    "lost+found",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "network trash folder",
    "temporary items",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
];

/// Whether a file name has an image extension.
pub(super) fn has_image_ending(name: &[u8]) -> bool {
    ends_with(name, &IMAGES)
}

/// Whether a file or folder belongs to the system or to an editor.
pub(super) fn is_system(name: &[u8]) -> bool {
    name.starts_with(b".")
        || SYSTEM.iter().any(|system| name.eq_ignore_ascii_case(system.as_bytes()))
}

/// Whether a file accompanies images (labels, lists, notes): a folder of such files is not a class.
pub(super) fn is_companion(name: &[u8]) -> bool {
    ends_with(name, &LABELS) || ends_with(name, &NOTES) || is_about(name)
}

/// Whether a file may hold labels.
pub(super) fn may_hold_labels(name: &[u8]) -> bool {
    ends_with(name, &LABELS) && !is_about(name)
}

/// Whether a file describes the data set.
fn is_about(name: &[u8]) -> bool {
    const STARTS: [&str; 8] =
        ["readme", "license", "licence", "copying", "citation", "changelog", "about", "notice"];
    let starts = |start: &&str| {
        name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start.as_bytes()))
    };
    STARTS.iter().any(starts)
}

/// A file's kind by its extension, such as `.heic`.
pub(super) fn kind(name: &[u8]) -> String {
    /// Longer suffixes are not extensions.
    const LONGEST: usize = 8;
    let Some(dot) = name.iter().rposition(|&b| b == b'.') else {
        return "without an extension".to_owned();
    };
    match name.get(dot + 1..) {
        Some(ending)
            if !ending.is_empty()
                && ending.len() <= LONGEST
                && ending.iter().all(u8::is_ascii_alphanumeric) =>
        {
            format!(".{}", String::from_utf8_lossy(ending).to_lowercase())
        }
        _ => "with odd names".to_owned(),
    }
}

fn ends_with(name: &[u8], endings: &[&str]) -> bool {
    let ends = |end: &&str| {
        name.len() > end.len()
            && name[name.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes())
    };
    endings.iter().any(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_files_are() {
        assert!(
            has_image_ending(b"a.JpEg")
                && has_image_ending(b"a.b.png")
                && !has_image_ending(b".png")
                && !has_image_ending(b"a.heic")
        );
        for name in [
            ".hidden",
            "@eaDir",
            "lost+found",
            "$RECYCLE.BIN",
            "System Volume Information",
            "Thumbs.db",
            "desktop.ini",
            "#recycle",
        ] {
            assert!(is_system(name.as_bytes()), "{name}");
        }
        assert!(!is_system(b"cat") && !is_system(b"@home"));
        assert!(
            is_companion(b"0.txt")
                && is_companion(b"README")
                && !is_companion(b"0.heic")
                && !is_companion(b"0")
        );
        assert!(
            may_hold_labels(b"0.cls")
                && !may_hold_labels(b"readme.txt")
                && !may_hold_labels(b"notes.md")
        );
        let kinds = ["a.HEIC", "a", "a.jpg?w=640", "a.", "a.b c"].map(|name| kind(name.as_bytes()));
        assert_eq!(
            kinds,
            [".heic", "without an extension", "with odd names", "with odd names", "with odd names"]
        );
    }
}
