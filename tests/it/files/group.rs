//! Putting files back: all of them with the database, or nothing.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn scene() -> Scene {
    let scene = Scene::new("include: ['*.yml', 'sub/*']\ninclude-interval: 1s");
    scene.write("a.yml", "a");
    scene.write("b.yml", "b");
    scene.write("sub/c", "c");
    let replicator = scene.start();
    scene.insert(5);
    scene.sync();
    stop(replicator, "replicate run");
    scene
}

/// What is there and is something else is not touched without being asked, and kept when it is replaced; what is there already stays;
/// after a refusal neither the database nor any file has changed.
#[test]
fn what_is_there_is_kept() {
    let scene = scene();
    let folder = scene.rig.path("there");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("a.yml"), "a").expect("written");
    fs::write(folder.join("b.yml"), "mine").expect("written");
    fs::write(folder.join("back.db"), "old").expect("written");
    let target = folder.join("back.db").display().to_string();
    let before = content(&folder, "");
    let restore = |more: &[&str]| {
        let mut arguments = vec!["restore", "app.db", "-o", &target, "--with-files"];
        arguments.extend(more);
        scene.ask(&arguments)
    };
    let dry = restore(&["--dry-run"]);
    assert!(dry.status.success() && text(&dry.stdout).contains("b.yml (1 bytes): replace"), "{}", text(&dry.stdout));
    fs::remove_file(folder.join("back.db")).expect("removed");
    let refused = restore(&[]);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("b.yml exists and holds something else"), "{}", text(&refused.stderr));
    fs::write(folder.join("back.db"), "old").expect("written");
    assert_eq!(content(&folder, ""), before);
    let replaced = restore(&["--overwrite"]);
    assert!(replaced.status.success(), "{}", text(&replaced.stderr));
    let now = content(&folder, "back.db");
    let names: Vec<&str> = now.iter().map(|(name, _)| name.split(".before").next().expect("a name")).collect();
    assert_eq!(names, ["a.yml", "b.yml", "b.yml", "back.db", "sub/c"], "{now:?}");
    let texts: Vec<&str> = now.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["a", "b", "mine", "old", "c"]);
}

/// What stands in the way and is never replaced is refused before anything is written: a directory, a link on the way, the name of the
/// database itself.
#[test]
fn what_is_in_the_way_is_refused() {
    let scene = scene();
    let outside = tempfile::tempdir().expect("a folder");
    for case in ["directory", "link", "name"] {
        let folder = scene.rig.path(case);
        fs::create_dir(&folder).expect("made");
        let target = folder.join(if case == "name" { "a.yml" } else { "back.db" });
        match case {
            "directory" => fs::create_dir(folder.join("b.yml")).expect("made"),
            "link" => symlink(outside.path(), folder.join("sub")).expect("linked"),
            _ => {}
        }
        let target = target.display().to_string();
        let refused = scene.ask(&["restore", "app.db", "-o", &target, "--with-files", "--overwrite"]);
        assert_eq!(refused.status.code(), Some(4), "{case}: {}", text(&refused.stderr));
        assert!(content(&folder, "").is_empty() && content(outside.path(), "").is_empty(), "{case}");
        // Elsewhere they have room.
        let elsewhere = folder.join("elsewhere");
        fs::create_dir(&elsewhere).expect("made");
        let files_to = elsewhere.display().to_string();
        scene.done(&["restore", "app.db", "-o", &target, "--files-to", &files_to]);
        assert_eq!(content(&elsewhere, "").len(), 3, "{case}");
    }
}
