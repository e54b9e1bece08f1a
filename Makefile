# What people type. `make` alone says what there is; scripts/ has what is longer than a line.

SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# More tests at once than cores: the end-to-end tests mostly wait for containers.
export RUST_TEST_THREADS ?= 4

.PHONY: help up down test test-ipvs check bench images

help:
	@echo 'make up       build, start a cluster in the background and wait until its node is Ready'
	@echo 'make down     stop it and remove everything that it put on this machine'
	@echo 'make test     all tests, the end-to-end ones on real containers included (needs root)'
	@echo 'make test-ipvs  services in mode ipvs, in a virtual machine with Debian'"'"'s kernel'
	@echo 'make check    format, clippy, tidy: what must hold before a change lands'
	@echo 'make bench    measure everything that we aim at and print tables (PROFILE=DIR: and say where CPU time goes)'
	@echo 'make images   build the images that examples and tests run'

up:
	@scripts/up

down:
	@scripts/down

test:
	@scripts/test

test-ipvs:
	@scripts/need protobuf-compiler gcc libc6-dev
	@cargo xtask ipvs

check:
	@scripts/need protobuf-compiler gcc libc6-dev
	@cargo xtask check

bench:
	@scripts/bench

images:
	@scripts/need busybox-static gcc libc6-dev
	@cargo xtask image
