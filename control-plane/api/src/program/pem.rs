//! Certificates and keys as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A section of PEM with this label, in lines of 64 characters (RFC 7468 section 2).
pub fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(WIDTH));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text + "-----END " + label + "-----\n"
}

const WIDTH: usize = 64;
