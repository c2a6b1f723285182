use super::super::{Cache, Codec, testing, verify};
use super::*;
use crate::error::Kind;
use crate::monitor::Silent;
use std::collections::BTreeMap;

/// Every file of a cache by path, except the lock.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    storage::walk(folder, &mut |path| {
        if path != storage::LOCK {
            files.insert(path.to_owned(), fs::read(folder.join(path)).unwrap());
        }
        Ok(())
    })
    .unwrap();
    files
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bytes() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plan = testing::plan(10, 2, Codec::Zstd);
    testing::write(whole.path(), &plan).unwrap();
    {
        let mut writer = Writer::open(cut.path(), &plan).unwrap();
        testing::publish(&mut writer, 1, 1).unwrap();
        let mut shards = writer.segment(0, 0).unwrap();
        shards.append(0, &testing::rows(&plan.manifest.view_arrays[0], 0, 0..3)).unwrap();
        drop(shards);
        // leftovers of a kill: a temporary shard, a renamed one that the manifest does not list, a
        // draft of the manifest
        fs::write(cut.path().join("input/c/0/0/0/0/.0.tmp"), b"half").unwrap();
        fs::write(cut.path().join("input/c/0/0/0/0/0"), b"whole, unpublished").unwrap();
        fs::write(cut.path().join(".manifest.json.tmp"), b"{").unwrap();
    }
    testing::write(cut.path(), &plan).unwrap();
    assert!(contents(whole.path()) == contents(cut.path()));
    testing::write(cut.path(), &plan).unwrap();
    assert!(contents(whole.path()) == contents(cut.path()));
}

#[test]
fn views_and_arrays_are_added_without_touching_what_is_published() {
    use std::os::unix::fs::MetadataExt;
    let (grown, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plan = testing::plan(10, 3, Codec::Zstd);
    let mut small = testing::plan(10, 1, Codec::Zstd);
    small.manifest.view_arrays.truncate(3);
    small.manifest.taps.clear();
    testing::write(grown.path(), &small).unwrap();
    let inodes = |folder: &Path| -> BTreeMap<String, u64> {
        let shards = contents(folder).into_keys().filter(|path| path.contains("/c/"));
        shards.map(|path| (path.clone(), fs::metadata(folder.join(path)).unwrap().ino())).collect()
    };
    let inodes_before = inodes(grown.path());

    // published: a segment of the new array alone, and one of a new view
    let mut writer = Writer::open(grown.path(), &plan).unwrap();
    assert_eq!(
        (writer.manifest().published_arrays(0, 1), writer.has(0, 1), writer.has(1, 0)),
        (3, false, false)
    );
    let mut shards = writer.segment(0, 1).unwrap();
    assert!(shards.append(2, &[0; 12]).unwrap_err().to_string().contains("published"));
    shards.append(3, &testing::rows(&plan.manifest.view_arrays[3], 0, 4..8)).unwrap();
    writer.publish(shards).unwrap();
    testing::publish(&mut writer, 2, 1).unwrap();
    // what was complete can be read meanwhile, but not written
    let part = Cache::open(grown.path()).unwrap();
    assert_eq!((part.manifest().views, part.manifest().view_arrays.len()), (1, 3));
    assert!(part.extension().unwrap().contains("2 of 9 segments are complete"));
    assert!(part.array("taps/conv/features").is_err() && part.manifest().taps.is_empty());
    assert!(Writer::open(grown.path(), &plan).is_err());
    drop((writer, part));
    // the extension is abandoned, however much of it exists
    let given_up = tempfile::tempdir().unwrap();
    for (path, bytes) in contents(grown.path()) {
        let path = given_up.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let withdrawn = super::super::withdraw(given_up.path()).unwrap();
    assert_eq!((withdrawn.views, withdrawn.arrays.len()), (2, 1));
    let before = tempfile::tempdir().unwrap();
    testing::write(before.path(), &small).unwrap();
    assert!(contents(given_up.path()) == contents(before.path()));
    assert!(!given_up.path().join("taps").exists());
    let error = super::super::withdraw(given_up.path()).unwrap_err();
    assert!(error.to_string().contains("found a complete one"), "{error}");
    // leftovers of a kill in the new array are swept, and a lost shard is rewritten with those
    // after it
    fs::create_dir_all(grown.path().join("taps/conv/features/c/0/0/0/0")).unwrap();
    fs::write(grown.path().join("taps/conv/features/c/0/0/0/0/0"), b"unpublished").unwrap();
    fs::remove_file(grown.path().join("logits/c/2/1/0")).unwrap();
    let writer = Writer::open(grown.path(), &plan).unwrap();
    assert!(!grown.path().join("taps/conv/features/c/0/0/0/0/0").exists());
    assert_eq!(writer.manifest().published_arrays(2, 1), 2);
    drop(writer);
    testing::write(grown.path(), &plan).unwrap();
    testing::write(whole.path(), &plan).unwrap();
    assert!(contents(grown.path()) == contents(whole.path()));
    let after = inodes(grown.path());
    assert!(
        inodes_before
            .iter()
            .filter(|(path, _)| path.contains("/c/0/"))
            .all(|(path, inode)| after[path] == *inode)
    );

    // fewer views, fewer arrays or a different first array are other settings
    for (change, field) in [
        ((|m| m.views = 2) as fn(&mut Manifest), "views"),
        (|m| m.taps.clear(), "taps"),
        (|m| m.view_arrays.truncate(3), "view_arrays"),
        (|m| m.view_arrays[0].dtype = crate::array::Dtype::I32, "view_arrays[0].dtype"),
    ] {
        let mut other = plan.clone();
        change(&mut other.manifest);
        let error = Writer::open(grown.path(), &other).unwrap_err().to_string();
        assert!(error.contains(&format!("made with another {field}:")), "{error}");
    }
}

#[test]
fn a_statistic_is_added_to_a_tap_that_had_features_alone() {
    let (grown, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let before = testing::plan(6, 2, Codec::Zstd);
    let after = testing::plan_of(testing::statistics(Codec::Zstd));
    testing::write(grown.path(), &before).unwrap();
    let writer = Writer::open(grown.path(), &after).unwrap();
    assert_eq!(
        (writer.manifest().format, writer.manifest().published_arrays(0, 0)),
        (Manifest::FORMAT_SUMS, 4)
    );
    drop(writer);
    testing::write(grown.path(), &after).unwrap();
    testing::write(whole.path(), &after).unwrap();
    assert!(contents(grown.path()) == contents(whole.path()));

    // nothing is removed, and no map changes
    let error = Writer::open(grown.path(), &before).unwrap_err().to_string();
    assert!(error.contains("made with another"), "{error}");
    let mut other = testing::plan(6, 2, Codec::Zstd);
    other.manifest.format = Manifest::FORMAT_STATISTICS;
    other.manifest.taps[0].map = Some(crate::statistic::MapShape {
        channels: 12,
        height: 1,
        width: 1,
        ..after.manifest.taps[0].map.unwrap()
    });
    other.manifest.view_arrays.truncate(3);
    let error = Writer::open(grown.path(), &other).unwrap_err().to_string();
    assert!(error.contains("made with another taps[0].map"), "{error}");
}

/// The plan of [`testing::plan`] with ten rows, without the sample in row `hole`: the last row
/// takes its place.
fn with_a_hole(views: usize, hole: usize) -> CachePlan {
    let (whole, mut plan) =
        (testing::plan(10, views, Codec::Zstd), testing::plan(9, views, Codec::Zstd));
    plan.manifest.data.limit = whole.manifest.data.limit;
    plan.manifest.data.skipped = vec![u64::try_from(whole.sample_ids[hole]).unwrap()];
    if hole < 9 {
        (plan.sample_ids[hole], plan.labels[hole]) = (whole.sample_ids[9], whole.labels[9]);
    }
    plan
}

#[test]
fn rows_that_move_take_their_segments_out_and_leave_the_others() {
    for (hole, kept) in
        [(5, [true, false, false]), (1, [false, true, false]), (9, [true, true, false])]
    {
        let (folder, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let whole = testing::plan(10, 2, Codec::Zstd);
        testing::write(folder.path(), &whole).unwrap();
        let arrays = ["label/c/0", "sample_id/c/0"]
            .map(|path| (path, fs::read(folder.path().join(path)).unwrap()));
        let plan = with_a_hole(2, hole);
        // refused unless the plan says so
        assert!(
            Writer::open(folder.path(), &plan)
                .unwrap_err()
                .to_string()
                .contains("made with another rows")
        );
        let moved = CachePlan { before: Some(whole.sample_ids.clone()), ..plan.clone() };
        let has = |writer: &Writer, view| [0, 1, 2].map(|segment| writer.has(view, segment));
        let writer = Writer::open(folder.path(), &moved).unwrap();
        assert_eq!((has(&writer, 0), has(&writer, 1)), (kept, kept), "row {hole}");
        drop(writer);
        assert!(Cache::open(folder.path()).is_err());
        // killed before the row arrays were written, so that the old ones remain: resumed, or
        // reverted
        for (path, bytes) in &arrays {
            fs::write(folder.path().join(path), bytes).unwrap();
        }
        let again = CachePlan { before: Some(plan.sample_ids.clone()), ..plan.clone() };
        assert_eq!(has(&Writer::open(folder.path(), &again).unwrap(), 1), kept);
        testing::write(folder.path(), &again).unwrap();
        testing::write(fresh.path(), &plan).unwrap();
        assert!(contents(folder.path()) == contents(fresh.path()), "row {hole}");
        // the sample returns
        let back = CachePlan { before: Some(plan.sample_ids.clone()), ..whole.clone() };
        assert_eq!(has(&Writer::open(folder.path(), &back).unwrap(), 0), kept);
        testing::write(folder.path(), &back).unwrap();
        testing::write(fresh.path(), &back).unwrap();
        assert!(contents(folder.path()) == contents(fresh.path()), "row {hole}");
    }
}

#[test]
fn a_segment_that_is_gone_with_its_only_row_is_swept() {
    let (folder, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (whole, mut plan) = (testing::plan(9, 1, Codec::Zstd), testing::plan(8, 1, Codec::Zstd));
    plan.manifest.data.limit = whole.manifest.data.limit;
    testing::write(folder.path(), &whole).unwrap();
    testing::write(
        folder.path(),
        &CachePlan { before: Some(whole.sample_ids.clone()), ..plan.clone() },
    )
    .unwrap();
    testing::write(fresh.path(), &plan).unwrap();
    assert!(contents(folder.path()) == contents(fresh.path()));
}

#[test]
fn another_label_or_order_is_refused_where_rows_may_move() {
    let folder = tempfile::tempdir().unwrap();
    let whole = testing::plan(10, 1, Codec::Zstd);
    testing::write(folder.path(), &whole).unwrap();
    let before = contents(folder.path());
    let mut other = CachePlan { before: Some(whole.sample_ids.clone()), ..with_a_hole(1, 5) };
    other.labels[6] = i64::from(other.labels[6] == 0);
    let error = Writer::open(folder.path(), &other).unwrap_err();
    assert!(error.to_string().contains("made with another label in row 6"), "{error}");
    let mut other = CachePlan { before: Some(whole.sample_ids.clone()), ..with_a_hole(1, 5) };
    other.before.as_mut().unwrap().swap(0, 1);
    let error = Writer::open(folder.path(), &other).unwrap_err();
    assert!(error.to_string().contains("made with another sample_id in row 0"), "{error}");
    assert!(before == contents(folder.path()));
}

#[test]
fn a_segment_is_replaced_whole_or_is_missing() {
    let (folder, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plan = testing::plan(10, 2, Codec::Zstd);
    testing::write(folder.path(), &plan).unwrap();
    testing::write(whole.path(), &plan).unwrap();
    let mut writer = Writer::open(folder.path(), &plan).unwrap();
    let fill = |writer: &Writer, value: u8| {
        let mut shards = writer.replacement(1, 1).unwrap();
        for (array, spec) in plan.manifest.view_arrays.iter().enumerate() {
            shards.append(array, &vec![value; 4 * spec.row_bytes()]).unwrap();
        }
        shards
    };
    writer.replace(fill(&writer, 1)).unwrap();
    assert!(writer.has(1, 1) && writer.segment(1, 1).is_err());
    let short = writer.replacement(1, 0).unwrap();
    assert!(writer.replace(short).unwrap_err().to_string().contains("lacks 4 rows"));
    assert!(writer.has(1, 0));
    drop(writer);
    assert!(verify(folder.path(), 1, &Silent).unwrap().findings.is_empty());
    // killed between the two commits: the shards exist but count as unpublished
    let mut writer = Writer::open(folder.path(), &plan).unwrap();
    writer.unpublish(&BTreeSet::from([(1, 1)])).unwrap();
    drop(writer);
    testing::write(folder.path(), &plan).unwrap();
    assert!(contents(folder.path()) == contents(whole.path()));
}

#[test]
fn a_widened_array_comes_last_and_alone_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = testing::plan(10, 2, Codec::Zstd);
    // not the last one
    plan.manifest.view_arrays.swap(2, 3);
    let mut writer = Writer::open(folder.path(), &plan).unwrap();
    testing::publish(&mut writer, 0, 0).unwrap();
    testing::publish(&mut writer, 1, 2).unwrap();
    assert!(writer.widen("logits").is_err());
    writer.widen("taps/conv/features").unwrap();
    let widened = writer.manifest().clone();
    assert_eq!((writer.manifest().published_arrays(0, 0), writer.has(0, 0)), (3, false));
    assert!(!folder.path().join("taps/conv/features/c/0/0/0/0/0").exists());
    drop(writer);
    let plan = CachePlan { manifest: Manifest { segments: Vec::new(), ..widened.clone() }, ..plan };
    assert_eq!(Writer::open(folder.path(), &plan).unwrap().manifest(), &widened);
    testing::write(folder.path(), &plan).unwrap();
    assert!(verify(folder.path(), 1, &Silent).unwrap().findings.is_empty());
    assert_eq!(
        Cache::open(folder.path()).unwrap().array("taps/conv/features").unwrap().spec().dtype,
        Dtype::F32
    );
}

#[test]
fn a_run_killed_before_the_first_commit_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(storage::LOCK), b"").unwrap();
    fs::write(folder.path().join(".manifest.json.tmp"), b"{").unwrap();
    testing::write(folder.path(), &testing::plan(10, 1, Codec::Raw)).unwrap();
    Cache::open(folder.path()).unwrap();
}

#[test]
fn missing_and_damaged_small_files_are_written_again() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plan = testing::plan(10, 1, Codec::Zstd);
    testing::write(folder.path(), &plan).unwrap();
    testing::write(other.path(), &plan).unwrap();
    fs::remove_file(folder.path().join("taps/zarr.json")).unwrap();
    fs::write(folder.path().join("label/c/0"), b"x").unwrap();
    fs::write(folder.path().join("logits/c/0/1/0"), b"short").unwrap();
    let writer = Writer::open(folder.path(), &plan).unwrap();
    assert_eq!((writer.has(0, 0), writer.has(0, 1), writer.has(0, 2)), (true, false, true));
    drop(writer);
    testing::write(folder.path(), &plan).unwrap();
    assert!(contents(folder.path()) == contents(other.path()));
}

#[test]
fn another_plan_is_refused_with_the_field_and_both_values() {
    let folder = tempfile::tempdir().unwrap();
    let plan = testing::plan(10, 2, Codec::Zstd);
    testing::write(folder.path(), &plan).unwrap();
    let before = contents(folder.path());
    let mut other = plan.clone();
    other.manifest.teacher.sha256 = "ab".into();
    let error = Writer::open(folder.path(), &other).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("made with another teacher.sha256: expected \"ab\", found \"00\""),
        "{error}"
    );
    assert!(error.find_hint().is_some_and(|h| h.contains("-o")));
    let mut other = plan.clone();
    other.labels[3] = 0;
    let error = Writer::open(folder.path(), &other).unwrap_err();
    assert!(
        error.to_string().ends_with("made with another label in row 3: expected 0, found 2"),
        "{error}"
    );
    assert!(before == contents(folder.path()));
}

#[test]
fn a_folder_with_other_things_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), b"years of work").unwrap();
    let error = Writer::open(folder.path(), &testing::plan(10, 1, Codec::Zstd)).unwrap_err();
    assert!(error.to_string().contains("thesis.tex"));
    assert_eq!(contents(folder.path()).len(), 1);
    assert!(!folder.path().join(storage::LOCK).exists());
}

#[test]
fn one_writer_or_many_readers() {
    let folder = tempfile::tempdir().unwrap();
    let plan = testing::plan(10, 1, Codec::Zstd);
    let writer = Writer::open(folder.path(), &plan).unwrap();
    assert!(Writer::open(folder.path(), &plan).unwrap_err().to_string().contains("in use"));
    let error = Cache::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("in use by pid"), "{error}");
    drop(writer);
    testing::write(folder.path(), &plan).unwrap();
    let readers = (Cache::open(folder.path()).unwrap(), Cache::open(folder.path()).unwrap());
    assert!(Writer::open(folder.path(), &plan).is_err());
    drop(readers);
    Writer::open(folder.path(), &plan).unwrap();
}

#[test]
fn wrong_rows_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(folder.path(), &testing::plan(10, 1, Codec::Zstd)).unwrap();
    assert!(writer.segment(0, 3).is_err());
    assert!(writer.segment(1, 0).is_err());
    let mut shards = writer.segment(0, 2).unwrap();
    assert!(shards.append(4, &[]).is_err());
    assert!(shards.append(0, &[0; 17]).is_err());
    assert!(shards.append(0, &[0; 48]).is_err());
    assert_eq!(shards.append(0, &[]).unwrap(), 0);
    assert!(shards.append(0, &[0; 32]).unwrap() > 0);
    let error = writer.publish(shards).unwrap_err();
    assert!(error.to_string().contains("`inputs/mask` lacks 2 rows"), "{error}");
    assert!(!writer.has(0, 2));
    let mut plan = testing::plan(10, 1, Codec::Zstd);
    plan.labels.pop();
    assert!(Writer::open(folder.path(), &plan).is_err());
}

#[test]
fn a_full_disk_and_a_missing_permission_are_one_clear_line() {
    let path = Path::new("cache/x/.manifest.json.tmp");
    let full =
        storage::failed(path, "write", std::io::Error::from(std::io::ErrorKind::StorageFull));
    assert_eq!((full.kind(), full.chain().lines().count()), (Kind::Input, 1));
    assert!(
        full.chain().starts_with("cache/x/.manifest.json.tmp: cannot write: "),
        "{}",
        full.chain()
    );
    assert!(full.find_hint().is_some_and(|h| h.contains("free some space")));
    let denied =
        storage::failed(path, "write", std::io::Error::from(std::io::ErrorKind::PermissionDenied));
    assert!(denied.find_hint().is_some_and(|h| h.contains("permission")));
    // a file in the way of the folder
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cache"), b"").unwrap();
    assert!(
        Writer::open(&folder.path().join("cache"), &testing::plan(10, 1, Codec::Zstd)).is_err()
    );
}
