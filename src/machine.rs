//! What the machine has: memory, disk, GPUs. Everything is `None` or empty where the system does
//! not tell.

use std::path::Path;

/// A process's private memory, in bytes: pages of files, which the system can reclaim, do not
/// count.
#[must_use]
pub fn process_memory(process: u32) -> Option<u64> {
    kilobytes(&format!("/proc/{process}/status"), "RssAnon:")
}

/// The memory that is free for programs, in bytes.
#[must_use]
pub fn available_memory() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemAvailable:")
}

fn kilobytes(path: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Free bytes of the file system that holds `folder` or its nearest parent that exists.
#[must_use]
pub fn free_disk(folder: &Path) -> Option<u64> {
    let absolute = std::path::absolute(folder).ok()?;
    let existing = absolute.ancestors().find(|p| p.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// The version of NVIDIA's driver.
#[must_use]
pub fn nvidia_driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    // NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed …
    text.lines().next()?.split_whitespace().find(|word| is_version(word)).map(str::to_owned)
}

fn is_version(word: &str) -> bool {
    word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// The names of NVIDIA's GPUs.
#[must_use]
pub fn nvidia_gpus() -> Vec<String> {
    let folders = std::fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    let model = |folder: std::fs::DirEntry| {
        let text = std::fs::read_to_string(folder.path().join("information")).ok()?;
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(model.trim().to_owned())
    };
    let mut names: Vec<String> = folders.filter_map(model).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_that_of_the_process() {
        let before = process_memory(std::process::id()).unwrap();
        // far more than other tests free in the meantime
        let mut block = vec![0u8; 512 << 20];
        block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        assert!(process_memory(std::process::id()).unwrap() > before + (48 << 20));
        assert!(block[0] == 1 && available_memory().unwrap() > 0);
        assert_eq!(process_memory(u32::MAX), None);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_lies_on_its_parents_disk() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_disk(&folder.path().join("a/b")).unwrap() > 0);
        assert!(is_version("570.124.06") && !is_version("x86_64") && !is_version("Module"));
    }
}
