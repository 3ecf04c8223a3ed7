//! weft-lab: a network of hosts in namespaces of one machine; the demo and the benchmarks.
