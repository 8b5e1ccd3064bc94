//! Environment variables, looked up through a value, so that a test or a server need not change its process.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where environment variables are looked up: in the process, or in a given set.
#[derive(Clone, Default)]
pub struct Environment(Option<Arc<HashMap<String, OsString>>>);

impl Environment {
    /// The variables of this process.
    pub fn process() -> Self {
        Self(None)
    }

    /// No variables at all.
    pub fn empty() -> Self {
        Self(Some(Arc::default()))
    }

    /// Exactly these variables.
    pub fn of<K: Into<String>, V: Into<OsString>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(Some(Arc::new(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())))
    }

    fn get(&self, name: &str) -> Option<OsString> {
        match &self.0 {
            None => std::env::var_os(name),
            Some(variables) => variables.get(name).cloned(),
        }
    }

    /// The variable's value as a path; a variable that is set to nothing counts as not set.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The variable's value as text without spaces around it; nothing where it is empty or not Unicode.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let value = self.get(name)?.into_string().ok()?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// Whether the variable says yes, in the words that `huggingface_hub` takes.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.text(name)
            .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str()))
    }
}

impl fmt::Debug for Environment {
    // Values may be secrets (HF_TOKEN).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment(..)")
    }
}
