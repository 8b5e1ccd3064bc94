use super::*;

const SMALL: &str = r#"
    output = "run"
    [[stages]]
    name = "single"
    steps = 5000
    data = [{ path = "single.json" }]
    [[stages]]
    name = "multi"
    steps = 5000
    data = [{ path = "/d/labels/split1.json", format = "uno-1m", min_score = 3.5 }]
"#;

fn read(name: &str, text: &str) -> Result<TrainConfig> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    TrainConfig::read(&path).map(|mut config| {
        config.output = config.output.strip_prefix(folder.path()).unwrap().to_path_buf();
        config
    })
}

#[test]
fn defaults_are_the_paper_s_recipe() {
    let config = read("a.toml", SMALL).unwrap();
    let stage = &config.stages[0];
    assert_eq!((stage.learning_rate, stage.batch_size * stage.accumulation), (1e-5, 16));
    assert_eq!((config.lora.new_rank(), config.max_grad_norm, stage.text_dropout), (512, 1.0, 0.1));
    assert_eq!((stage.guidance, stage.resolution, stage.pe), (1.0, 512, UnoPe::D));
    assert_eq!(config.stages[1].data[0].min_score, 3.5);
    assert_eq!(config.output, Path::new("run"));
}

#[test]
fn references_have_one_size_or_one_by_their_number() {
    let size = |text: &str| {
        let config =
            read("a.toml", &SMALL.replacen("steps = 5000", &format!("steps = 5000\nref_size = {text}"), 1));
        config
            .map(|config| config.stages[0].ref_size.map(|size| [1, 2, 3].map(|count| size.long_side(count))))
    };
    assert_eq!(size("64").unwrap(), Some([64; 3]));
    assert_eq!(size("[128, 80]").unwrap(), Some([128, 80, 80]));
    for wrong in ["8", "[128, 8]", "[128]", "\"x\""] {
        assert!(size(wrong).unwrap_err().to_string().contains("ref_size"), "{wrong}");
    }
}

#[test]
fn toml_and_json_say_the_same() {
    let config = read("a.toml", SMALL).unwrap();
    let json = serde_json::to_string(&config).unwrap();
    let mut again = read("a.json", &json).unwrap();
    // The first reading made the list's path absolute.
    again.stages[0].data[0].path.clone_from(&config.stages[0].data[0].path);
    assert_eq!(again, config);
}

#[test]
fn misspelt_and_impossible_settings_are_named() {
    for (from, to, named) in [
        ("steps = 5000", "steps = 0", "steps"),
        ("steps = 5000", "stepps = 5000", "stepps"),
        ("steps = 5000", "steps = 1\nlearning_rate = -1.0", "learning_rate"),
        ("steps = 5000", "steps = 1\nresolution = 8", "resolution"),
        ("steps = 5000", "steps = 1\npe = \"x\"", "pe"),
        ("name = \"multi\"", "name = \"single\"", "a name of its own"),
        ("name = \"multi\"", "name = \"../x\"", "name"),
        ("output = \"run\"", "output = \"run\"\nema_decay = 1.0", "ema_decay"),
        ("output = \"run\"", "output = \"run\"\nsed = 1", "sed"),
        ("output = \"run\"", "", "output"),
    ] {
        let error = read("a.toml", &SMALL.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(named), "{to}: {error}");
    }
}

#[test]
fn the_hash_changes_with_what_is_computed_only() {
    let config = read("a.toml", SMALL).unwrap();
    let with = |change: fn(&mut TrainConfig)| {
        let mut other = config.clone();
        change(&mut other);
        other.hash(&config.stages[1].name)
    };
    let hash = |stage: usize| config.hash(&config.stages[stage].name);
    assert_eq!(hash(1), with(|c| c.checkpoint_every = 7));
    assert_eq!(hash(1), with(|c| c.stages[1].steps = 9000));
    assert_ne!(hash(1), with(|c| c.seed = 1));
    assert_ne!(hash(1), with(|c| c.stages[0].learning_rate = 1e-4));
    assert_ne!(hash(1), with(|c| (c.stages[0].decay, c.stages[0].steps) = (Decay::Cosine, 10)));
    // What comes after a stage does not change it.
    let mut shorter = config.clone();
    shorter.stages.truncate(1);
    assert_eq!(hash(0), shorter.hash(&config.stages[0].name));
    assert_ne!(hash(0), hash(1));
}
