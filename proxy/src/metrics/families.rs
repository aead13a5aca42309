//! Families and their samples: what the encoder of `prometheus-client` asks for, in fewer words.

use std::fmt::Error;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

use super::cell::{Histogram, Label, Labelled};

pub(super) type Written = Result<(), Error>;

/// Opens families: one description each, whether there are samples or not.
pub(super) struct Families<'e> {
    encoder: DescriptorEncoder<'e>,
}

impl<'e> Families<'e> {
    pub(super) fn new(encoder: DescriptorEncoder<'e>) -> Self {
        Self { encoder }
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl FnOnce(&mut Family<'_>) -> Written,
    ) -> Written {
        // OpenMetrics names a counter's family without the suffix that its samples carry.
        let name = name.strip_suffix("_total").unwrap_or(name);
        samples(&mut Family {
            encoder: self.encoder.encode_descriptor(name, help, None, kind)?,
        })
    }

    pub(super) fn counters(
        &mut self,
        name: &str,
        help: &str,
        samples: impl FnOnce(&mut Family<'_>) -> Written,
    ) -> Written {
        self.family(name, help, MetricType::Counter, samples)
    }

    pub(super) fn gauges(
        &mut self,
        name: &str,
        help: &str,
        samples: impl FnOnce(&mut Family<'_>) -> Written,
    ) -> Written {
        self.family(name, help, MetricType::Gauge, samples)
    }

    pub(super) fn histograms(
        &mut self,
        name: &str,
        help: &str,
        samples: impl FnOnce(&mut Family<'_>) -> Written,
    ) -> Written {
        self.family(name, help, MetricType::Histogram, samples)
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> Written {
        self.counters(name, help, |family| family.counter(&[], &value))
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: i64) -> Written {
        self.gauges(name, help, |family| family.gauge(&[], &value))
    }
}

/// Writes the samples of one family.
pub(super) struct Family<'e> {
    encoder: MetricEncoder<'e>,
}

pub(super) type Labels<'l> = [(&'l str, &'l str)];

impl Family<'_> {
    pub(super) fn counter(&mut self, labels: &Labels<'_>, value: &impl EncodeCounterValue) -> Written {
        if labels.is_empty() {
            return self.encoder.encode_counter::<NoLabelSet, _, f64>(value, None);
        }
        self.encoder
            .encode_family(&labels)?
            .encode_counter::<NoLabelSet, _, f64>(value, None)
    }

    pub(super) fn gauge(&mut self, labels: &Labels<'_>, value: &impl EncodeGaugeValue) -> Written {
        if labels.is_empty() {
            return self.encoder.encode_gauge(value);
        }
        self.encoder.encode_family(&labels)?.encode_gauge(value)
    }

    pub(super) fn histogram(&mut self, labels: &Labels<'_>, histogram: &Histogram) -> Written {
        let filled = histogram.filled();
        // Counted from the same reading, so that the count is that of the last bucket.
        let count = filled.iter().map(|(_, count)| count).sum();
        self.encoder
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(histogram.sum(), count, &filled, None)
    }

    /// One sample per label, zero or not.
    pub(super) fn each<L: Label>(
        &mut self,
        labels: &Labels<'_>,
        name: &'static str,
        cells: &Labelled<L>,
    ) -> Written {
        cells.values().try_for_each(|(text, value)| {
            let with = [labels, &[(name, text)]].concat();
            self.counter(&with, &value)
        })
    }

    /// One sample per label that was counted: for sets so large that zeroes would bury the rest.
    pub(super) fn seen<L: Label>(
        &mut self,
        labels: &Labels<'_>,
        name: &'static str,
        cells: &Labelled<L>,
    ) -> Written {
        cells.seen().try_for_each(|(text, value)| {
            let with = [labels, &[(name, text)]].concat();
            self.counter(&with, &value)
        })
    }
}
