# Two commands are all a newcomer needs: `make demo` and `make test`. Both install what is missing.
# Everything runs as root: weft makes network namespaces and loads eBPF programs.

CARGO ?= cargo
RELEASE := target/release
# The plugin is started for every workload: linked statically, so that no library is searched for, and without what
# only unwinding needs, for it aborts when it panics. Functions of the same code are kept once.
PLUGIN := target/x86_64-unknown-linux-gnu/plugin/weft-cni
PLUGIN_FLAGS := -C target-feature=+crt-static -C relocation-model=static -C force-unwind-tables=no \
	-C link-arg=-Wl,--icf=all,--no-eh-frame-hdr

.PHONY: demo test test-kernels bench build setup fmt lint unit integration

demo: build
	$(RELEASE)/weft-lab demo

test: fmt lint unit integration

# Not part of `test`: other kernels, emulated, take minutes each.
test-kernels: setup
	scripts/test-kernels

bench: build
	$(RELEASE)/weft-lab bench

setup:
	@scripts/setup

build: setup
	$(CARGO) build --release -p weft-agent -p weft-policy-server -p weft-cli -p weft-lab
	RUSTFLAGS="$(PLUGIN_FLAGS)" \
		$(CARGO) build --profile plugin -p weft-cni-plugin --target x86_64-unknown-linux-gnu
	cp -f $(PLUGIN) $(RELEASE)/weft-cni.new && mv -f $(RELEASE)/weft-cni.new $(RELEASE)/weft-cni

fmt: setup
	$(CARGO) fmt --all --check

lint: setup
	$(CARGO) clippy --workspace --all-targets -- -D warnings

unit: setup
	$(CARGO) test --workspace --exclude weft-tests --exclude weft-lab

# The lab of the tests drives the binaries next to them, built without optimisation.
integration: setup
	$(CARGO) build -p weft-agent -p weft-policy-server -p weft-cli -p weft-lab -p weft-cni-plugin
	$(CARGO) test -p weft-lab -p weft-tests -- --test-threads=2
