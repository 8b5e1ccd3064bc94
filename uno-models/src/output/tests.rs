use super::*;

fn settings() -> Settings {
    let request = Request::new("../é \"quoted\" 猫").with_seed(u64::MAX);
    Settings::new(&request, &request.samples[0], [32, 16])
}

#[test]
fn settings_come_back_from_the_png_and_from_the_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/0_0.png");
    save(&path, &RgbImage::new(32, 16), &settings()).unwrap();
    assert_eq!(Settings::read(&path).unwrap(), settings());
    assert_eq!(Settings::read(path.with_extension("json")).unwrap(), settings());
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn other_decoders_read_the_picture_and_its_exif() {
    use image::ImageDecoder;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.png");
    let picture = RgbImage::from_fn(8, 4, |x, y| image::Rgb([x as u8 * 30, y as u8 * 60, 7]));
    save(&path, &picture, &settings()).unwrap();
    let bytes = std::io::Cursor::new(std::fs::read(&path).unwrap());
    let mut decoder = image::codecs::png::PngDecoder::new(bytes).unwrap();
    let exif = decoder.exif_metadata().unwrap().unwrap();
    assert!(exif.starts_with(b"II*\0") && exif.windows(8).any(|w| w == b"UNICODE\0"));
    assert_eq!(image::open(&path).unwrap().into_rgb8(), picture);
}

#[test]
fn a_jpeg_carries_its_settings_too() {
    let folder = tempfile::tempdir().unwrap();
    let picture = RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8 * 4, y as u8 * 5, 7]));
    for name in ["x.jpg", "y.JPEG"] {
        let path = folder.path().join(name);
        save(&path, &picture, &settings()).unwrap();
        assert_eq!(Settings::read(&path).unwrap(), settings());
        assert_eq!(image::ImageReader::open(&path).unwrap().into_dimensions().unwrap(), (64, 48));
        let read = image::open(&path).unwrap().into_rgb8();
        let differences = read.as_raw().iter().zip(picture.as_raw()).map(|(a, b)| a.abs_diff(*b));
        assert!(differences.max().unwrap() < 16);
    }
    let path = folder.path().join("long.jpg");
    let long = Settings { prompt: "word ".repeat(10_000), ..settings() };
    assert!(check_writable(&path, &long).unwrap_err().to_string().contains("save a PNG"));
    assert!(save(&path, &picture, &long).is_err() && !path.exists());
    save(&path.with_extension("png"), &picture, &long).unwrap();
}

/// Settings that name files with folders.
fn with_files() -> Settings {
    let file = |path: &str| FileRecord { path: path.into(), sha256: "0".repeat(64) };
    let model = |part: &str, path: &str| ModelRecord {
        part: part.into(),
        path: path.into(),
        fingerprint: "1".repeat(64),
    };
    Settings {
        references: vec![ReferenceRecord { file: file("/home/me/secret/cup.png"), width: 64, height: 48 }],
        noise_file: Some(file(r"C:\Users\me\secret\noise.safetensors")),
        model: vec![model("dit", "/data/secret/flux1-dev.safetensors"), model("t5", "secret/t5/")],
        ..settings()
    }
}

#[test]
fn what_leaves_the_machine_names_no_folders() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["x.png", "x.jpg"] {
        let path = folder.path().join(name);
        save(&path, &RgbImage::new(32, 16), &with_files()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let wide: Vec<u8> = "secret".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for words in [b"secret".as_slice(), &wide] {
            assert!(!bytes.windows(words.len()).any(|window| window == words), "{name}");
        }
        let read = Settings::read(&path).unwrap();
        assert_eq!(read, with_files().without_folders());
        assert_eq!(read.references[0].file.path, Path::new("cup.png"));
        assert_eq!(read.noise_file.unwrap().path, Path::new("noise.safetensors"));
        assert_eq!(read.model[1].path, Path::new("t5"));
        // The file beside it stays, and is asked for the folders.
        assert_eq!(Settings::read(path.with_extension("json")).unwrap(), with_files());
        assert_eq!(Settings::read_with_folders(&path).unwrap(), with_files());
    }
    let other = Settings { seed: 1, ..with_files() };
    std::fs::write(folder.path().join("x.json"), other.to_json().unwrap()).unwrap();
    let read = Settings::read_with_folders(folder.path().join("x.png")).unwrap();
    assert_eq!(read, with_files().without_folders(), "the file beside is of another picture");
}

#[test]
fn tiles_are_recorded_and_older_settings_say_nothing_of_them() {
    let read = |settings: &Settings| serde_json::from_str::<Settings>(&settings.to_json().unwrap()).unwrap();
    for tiling in [VaeTiling::Auto, VaeTiling::Whole, VaeTiling::Tiles(48)] {
        let settings = Settings { vae_tiling: tiling, ..settings() };
        assert_eq!(read(&settings), settings);
        assert_eq!(settings.to_json().unwrap().contains("vae_tile"), tiling != VaeTiling::Auto);
    }
    let whole = Settings { vae_tiling: VaeTiling::Whole, ..settings() };
    assert!(whole.to_json().unwrap().contains("\"vae_tile\": null"));
}

#[test]
fn what_makes_no_other_picture_makes_no_difference() {
    let tiled = |tile| Settings { vae_tiling: VaeTiling::Tiles(tile), width: 1024, ..settings() };
    let whole = Settings { vae_tiling: VaeTiling::Whole, width: 1024, ..settings() };
    let unknown = Settings { vae_tiling: VaeTiling::Auto, ..whole.clone() };
    assert!(whole.answers(&whole) && tiled(48).answers(&tiled(48)));
    assert!(whole.answers(&tiled(48)), "the exact picture is the better one");
    assert!(unknown.answers(&tiled(48)) && unknown.answers(&whole));
    assert!(!tiled(48).answers(&whole) && !tiled(48).answers(&tiled(64)));
    assert!(tiled(128).answers(&whole), "it fits in one tile");
    let moved = with_files().without_folders();
    assert!(moved.answers(&with_files()));
    let merged = Settings { lora_merged: true, device: "Flex".into(), ..settings() };
    assert!(merged.answers(&Settings { device: "cpu".into(), ..settings() }));
    assert!(!settings().answers(&Settings { seed: 1, ..settings() }));
    let mut other = with_files();
    other.references[0].file.sha256 = "2".repeat(64);
    assert!(!other.answers(&with_files()));
}

#[test]
fn only_files_of_ours_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let picture = RgbImage::new(32, 16);
    let path = folder.path().join("x.png");
    let json = path.with_extension("json");
    save(&path, &picture, &settings()).unwrap();
    save(&path, &picture, &with_files()).unwrap();
    // Of another version's form.
    std::fs::write(&json, r#"{"form": 7, "software": "uno-rs 9.0.0"}"#).unwrap();
    save(&path, &picture, &settings()).unwrap();
    for foreign in
        ["", "[]", "no JSON", r#"{"prompt": "a scene", "seed": 1}"#, r#"{"form": 1, "software": "other"}"#]
    {
        std::fs::write(&json, foreign).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = save(&path, &picture, &with_files()).unwrap_err().to_string();
        assert!(error.contains("x.json") && error.contains("not replaced"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_to_string(&json).unwrap(), foreign);
    }
    save_over(&path, &picture, &settings()).unwrap();
    assert_eq!(Settings::read(&json).unwrap(), settings());
    picture.save(&path).unwrap();
    assert!(save(&path, &picture, &settings()).unwrap_err().to_string().contains("x.png"));
    assert!(!save_new(&path, &picture, &settings()).unwrap());
    // A name of which one of the two files is taken is taken.
    std::fs::remove_file(&path).unwrap();
    assert!(!save_new(&path, &picture, &settings()).unwrap() && !path.exists());
    std::fs::remove_file(&json).unwrap();
    assert!(save_new(&path, &picture, &settings()).unwrap());
    #[cfg(unix)]
    {
        // A link that leads nowhere is somebody's, too.
        std::fs::remove_file(&json).unwrap();
        std::os::unix::fs::symlink("nowhere", &json).unwrap();
        assert!(save(&path, &picture, &settings()).is_err());
    }
}

#[test]
fn a_png_of_someone_else_holds_no_settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.png");
    RgbImage::new(2, 2).save(&path).unwrap();
    assert!(Settings::read(&path).unwrap_err().to_string().contains("no settings"));
    std::fs::write(&path, b"not a png").unwrap();
    assert!(Settings::read(&path).is_err());
}

#[test]
fn a_changed_reference_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ref.png");
    std::fs::write(&path, b"one").unwrap();
    let record = FileRecord::of(&path).unwrap();
    record.verify().unwrap();
    std::fs::write(&path, b"two").unwrap();
    assert!(record.verify().unwrap_err().to_string().contains("has changed"));
}
