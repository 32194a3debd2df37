# shellcheck shell=bash disable=SC2034
# Debian trees for the MPI matrix: per suite one to compile in, per suite and MPI family one to run in.
#
# Kept in the cache directory under a hash of their package list; safe to remove. Sourced by mpi_images (the trees to run
# in become images) and mpi_hosts (they become installations of this machine, too). bed.sh comes first.

MPI_SUITES=(bullseye bookworm trixie sid)
MPI_FAMILIES=(openmpi mpich)
export SOURCE_DATE_EPOCH=0

# Both families' compilers go together; patchelf writes the absolute DT_NEEDED and musl-tools the program of another libc.
MPI_COMPILERS=(gcc g++ gfortran libc6-dev libopenmpi-dev libmpich-dev libhwloc-dev patchelf musl-tools)

# mpi_packages KIND SUITE: what the tree of that kind holds beside the essential packages.
mpi_packages() {
	case $1-$2 in
	compilers-*) echo "${MPI_COMPILERS[*]}" ;;
	openmpi-bullseye | openmpi-bookworm) echo openmpi-common libgfortran5 libopenmpi3 ;;
	openmpi-*) echo openmpi-common libgfortran5 libopenmpi40 ;;
	mpich-*) echo libhwloc15 libmpich12 ;;
	python-*) echo python3-mpi4py openmpi-common ;;
	plain-*) echo libc6 ;;
	*) die "no tree of kind $1 for $2" ;;
	esac
}

# mpi_root KIND SUITE: print the path of the tree, made if it is not there. Output of what makes it goes to stderr.
mpi_root() {
	local kind=$1 suite=$2 packages path
	read -ra packages <<<"$(mpi_packages "$kind" "$suite")"
	path=$BED_CACHE/root-$suite-$kind-$(echo "${packages[*]}" | sha256sum | cut -c1-12)
	mkdir -p "$BED_CACHE/log"
	(
		flock 8
		[[ -d $path ]] || mpi_root_make "$suite" "$path" "${packages[@]}" >&2
	) 8>"$BED_CACHE/log/root-$suite-$kind.lock" && echo "$path"
}

# Written without set -e's help, which does not reach into $(...). mmdebstrap opens descriptors of its own and writes their
# numbers into a shell command, which takes one digit only: those of this script are closed for it.
mpi_root_make() { # SUITE PATH PACKAGE...
	local suite=$1 path=$2
	shift 2
	rm -rf --one-file-system "$path.new" "${path%-*}"-????????????
	proxy_settings >"$path.apt.conf"
	# sid as this machine sees it may be a snapshot, whose Release file has expired.
	mmdebstrap --mode=root --variant=essential --format=directory --aptopt="$path.apt.conf" \
		--dpkgopt=path-exclude='/usr/share/'{man,doc,locale,info,lintian}'/*' --include="$(IFS=, && echo "$*")" \
		"$suite" "$path.new" "deb [check-valid-until=no] $(mirror) $suite main" 3>&- 8>&- 9>&- &&
		rm -rf "$path.apt.conf" "$path.new"/var/cache/ldconfig/* "$path.new"/var/log/* &&
		mv "$path.new" "$path"
}
