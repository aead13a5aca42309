//! Durations and sizes, there and back.

use super::*;

#[test]
fn durations_read_and_write_as_kubernetes_does() {
    for (text, nanos, written) in [
        ("2ms", 2_000_000_u64, "2ms"),
        ("1h30m", 5_400_000_000_000, "1h30m"),
        ("90m", 5_400_000_000_000, "1h30m"),
        ("1.5s", 1_500_000_000, "1s500ms"),
        ("0s", 0, "0s"),
        ("0", 0, "0s"),
        ("250us", 250_000, "250us"),
        ("250µs", 250_000, "250us"),
        ("1s1ns", 1_000_000_001, "1s1ns"),
    ] {
        let duration = text.parse::<Duration>().expect(text);
        assert_eq!(u128::from(nanos), duration.0.as_nanos(), "{text}");
        assert_eq!(duration.to_string(), written);
        assert_eq!(written.parse(), Ok(duration));
    }
    for text in [
        "",
        "5",
        "ms",
        "-1s",
        "1 s",
        "1d",
        "s1",
        "1.s",
        ".5s",
        "1..5s",
        "0.1ns",
        "99999999999999h",
        "1s5",
    ] {
        text.parse::<Duration>().expect_err(text);
    }
}

#[test]
fn sizes_read_and_write_as_kubernetes_does() {
    for (text, bytes, written) in [
        ("500", 500_u64, "500"),
        ("1Mi", 1 << 20, "1Mi"),
        ("1.5Ki", 1536, "1536"),
        ("1024", 1024, "1Ki"),
        ("64k", 64_000, "64000"),
        ("0", 0, "0"),
    ] {
        let size = text.parse::<ByteSize>().expect(text);
        assert_eq!((size.0, size.to_string().as_str()), (bytes, written), "{text}");
        assert_eq!(written.parse(), Ok(size));
    }
    for text in ["", "Mi", "1mi", "1 Mi", "-1", "1.5", "1MB", "99999999Ti", "1e6"] {
        text.parse::<ByteSize>().expect_err(text);
    }
}
