//! The adapters that come with the suite.

/// By name, in the order of the alphabet.
const SHIPPED: &[(&str, &str)] = &[
    ("actix", include_str!("../../adapters/actix.toml")),
    ("axum", include_str!("../../adapters/axum.toml")),
    ("go", include_str!("../../adapters/go.toml")),
    ("gunicorn", include_str!("../../adapters/gunicorn.toml")),
    ("haproxy", include_str!("../../adapters/haproxy.toml")),
    ("lameduck", include_str!("../../adapters/lameduck.toml")),
    ("lameduck-tls", include_str!("../../adapters/lameduck-tls.toml")),
    ("nginx", include_str!("../../adapters/nginx.toml")),
    ("node", include_str!("../../adapters/node.toml")),
    ("uvicorn", include_str!("../../adapters/uvicorn.toml")),
];

/// The text of the adapter of this name.
pub fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The names there are.
pub fn shipped_names() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}
