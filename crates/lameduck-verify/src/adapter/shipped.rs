//! The adapters that come with the suite.

/// By name, in the order of the alphabet.
const SHIPPED: &[(&str, &str)] = &[("lameduck", include_str!("../../adapters/lameduck.toml"))];

/// The text of the adapter of this name.
pub fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The names there are.
pub fn shipped_names() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}
