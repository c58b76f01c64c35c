"""Starts one container of a pod: enters the pod's namespaces, builds a root, becomes the user, runs the command.

    python -IS podinit.py run SPEC.json FD     run the container; FD tells the node its process id, or what failed
    python -IS podinit.py enter PID ARG...     run a command beside process PID (an exec probe)
    python -IS podinit.py try                  exit 0 where all that can be done

The node starts it, and it stays as the parent of the container's process 1, whose exit code becomes its own: 128 and
the number for a signal. The root is a tmpfs into which the folders of the image, or of this machine in its place, are
bound read-only; that needs no overlay, which an ordinary user's namespaces do not have. Standard library only, and no
imports that take time.
"""

import ctypes
import errno
import json
import os
import signal
import stat
import sys
import warnings  # noqa: F401 - for os.execvpe, which imports it in a root that may have no Python

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = -100, 0x8000, 1
SYS_MOUNT_SETATTR = 442
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
# Not the image's: made for each container.
OWN = ("proc", "dev", "tmp", "run", "lost+found")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
libc = ctypes.CDLL(None, use_errno=True)


def main():
    mode = sys.argv[1]
    if mode == "run":
        with open(sys.argv[2], encoding="utf-8") as file:
            run(json.load(file), int(sys.argv[3]))
    elif mode == "enter":
        enter(int(sys.argv[2]), sys.argv[3:])
    else:
        attempt()


def run(spec, report):
    """Never returns."""
    os.set_inheritable(report, False)
    die_with_parent(spec["parent"])
    for descriptor in spec["namespaces"]:
        check(libc.setns(descriptor, 0), "setns")
        os.close(descriptor)
    check(libc.unshare(NEWNS | NEWPID), "unshare")
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            be_container(spec, parent)
        except Exception as error:  # noqa: BLE001 - the node reports it
            os.write(report, str(error).encode())
        os._exit(128)
    os.write(report, b"%d\n" % child)
    os.close(report)
    os._exit(exit_code(child))


def be_container(spec, parent):
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount / private")
    build_root(spec["root"], spec["image"], spec["mounts"], spec["read_only"])
    os.chdir(spec["root"])
    check(libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
    become(spec["user"], spec["group"])
    if spec["no_new_privileges"]:
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    for capability in range(64) if spec["drop_capabilities"] else ():
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    die_with_parent(None)
    os.umask(0o022)
    os.chdir(spec["folder"])
    execute(spec["command"], spec["env"])


def build_root(root, image, mounts, read_only):
    mount_tmpfs(root, "mode=755")
    ours = [root]  # tmpfs that stand for folders of the root
    for name in os.listdir(image):
        if name not in OWN:
            bind(f"{image}/{name}", f"{root}/{name}")
    for name in OWN[:4]:
        os.mkdir(f"{root}/{name}", 0o755)
    os.chmod(f"{root}/tmp", 0o1777)
    check(libc.mount(b"proc", f"{root}/proc".encode(), b"proc", MS_NOSUID | MS_NODEV, None), "mount proc")
    make_devices(f"{root}/dev")
    # Where the image has a symlink, as in /var/run, the pod has it too.
    mounts = sorted(mounts, key=lambda each: each["target"])
    placed = [(resolve(image, mount["target"]), mount) for mount in mounts]
    for target, mount in placed:  # all before the first mount: a folder that is replaced would hide what is mounted
        make_place(root, image, target, mount["source"] is None or os.path.isdir(mount["source"]), ours)
    for target, mount in placed:
        source = mount["source"]
        make_place(root, image, target, source is None or os.path.isdir(source), ours)
        if source is None:
            mount_tmpfs(root + target, f"mode=1777,{mount['options']}")
        else:
            bind(source, root + target, read_only=mount["read_only"])
    for place in ours if read_only else ():
        make_read_only(place, 0)


def make_devices(dev):
    mount_tmpfs(dev, "mode=755")
    for name in DEVICES:
        bind(f"/dev/{name}", f"{dev}/{name}", read_only=False)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{dev}/{name}")
    os.mkdir(f"{dev}/shm")
    mount_tmpfs(f"{dev}/shm", "mode=1777,size=64m")


def resolve(image, path):
    """The path that `path` is in the image, symlinks followed."""
    found, names = "/", path.split("/")[::-1]
    while names:
        name = names.pop()
        here = os.path.normpath(os.path.join(found, name))
        if name and os.path.islink(image + here):
            target = os.readlink(image + here)
            names += target.split("/")[::-1]
            found = "/" if target.startswith("/") else found
        else:
            found = here
    return found


def make_place(root, image, target, is_folder, ours):
    """Makes a mount point. A folder of the image that lacks it is replaced by a tmpfs with the same entries."""
    if os.path.lexists(root + target):
        return
    parent = os.path.dirname(target)
    make_place(root, image, parent, True, ours)
    try:
        make_entry(root + target, is_folder)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        mount_tmpfs(root + parent, "mode=755")
        ours.append(root + parent)
        for name in os.listdir(image + parent):
            bind(f"{image}{parent}/{name}", f"{root}{parent}/{name}")
        make_entry(root + target, is_folder)


def make_entry(path, is_folder):
    if is_folder:
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def bind(source, target, read_only=True):
    """With everything mounted below. A symlink is copied."""
    kind = os.lstat(source).st_mode
    if stat.S_ISLNK(kind):
        os.symlink(os.readlink(source), target)
        return
    if not os.path.lexists(target):
        make_entry(target, stat.S_ISDIR(kind))
    check(libc.mount(source.encode(), target.encode(), None, MS_BIND | MS_REC, None), f"bind {source}")
    if read_only:
        make_read_only(target, AT_RECURSIVE)


def make_read_only(path, flags):
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    number = ctypes.c_long(SYS_MOUNT_SETATTR)
    result = libc.syscall(number, AT_FDCWD, path.encode(), flags, attributes, ctypes.c_size_t(32))
    check(result, f"make {path} read-only")


def mount_tmpfs(target, options):
    check(libc.mount(b"tmpfs", target.encode(), b"tmpfs", MS_NOSUID, options.encode()), f"mount tmpfs at {target}")


def become(user, group):
    """In a user namespace that holds this one user, who outside is the one that runs the bed."""
    outer_user, outer_group = os.geteuid(), os.getegid()
    check(libc.unshare(NEWUSER), "unshare of the user")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {outer_user} 1"),
        ("gid_map", f"{group} {outer_group} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:  # loaded already, as no other codec
            file.write(text)


def execute(command, env):
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, env)
    except FileNotFoundError:
        raise FileNotFoundError(f'exec: "{command[0]}": executable file not found in $PATH') from None


def enter(pid, command):
    """Runs a command with the environment of process `pid`, in its namespaces."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        env = dict(each.split(b"=", 1) for each in file.read().split(b"\0") if each)
    names = ("net", "uts", "ipc", "pid", "mnt", "user")  # the user last: before, the rights to enter are there
    for descriptor in [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in names]:
        check(libc.setns(descriptor, 0), "setns")
    die_with_parent(None)
    child = os.fork()
    if child == 0:
        die_with_parent(None)
        try:
            execute([os.fsencode(each) for each in command], env)
        finally:
            os._exit(126)
    os._exit(exit_code(child))


def attempt():
    """What `run` needs, in namespaces that end with this process."""
    check(libc.unshare(NEWNS | NEWPID | NEWNET | NEWUTS | NEWIPC), "unshare")
    child = os.fork()
    if child == 0:
        for words in ("link add kbtry type bridge", "link add kbtry0 type veth peer name kbtry1"):
            os.waitpid(os.posix_spawnp("ip", ["ip", *words.split()], os.environ), 0)
        missing = [name for name in ("kbtry", "kbtry0") if not name_is_link(name)]
        if missing:
            raise OSError(errno.EOPNOTSUPP, "bridge and veth")
        check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount / private")
        build_root("/mnt" if os.path.isdir("/mnt") else "/media", "/", [], True)
        become(1000, 1000)
        os._exit(0)
    os._exit(exit_code(child))


def name_is_link(name):
    with open("/proc/net/dev", encoding="ascii") as file:
        return any(line.strip().startswith(f"{name}:") for line in file)


def exit_code(child):
    _, status = os.waitpid(child, 0)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def die_with_parent(parent):
    """SIGKILL when the parent ends. Changed credentials clear that, so it is asked for again after them."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(128)


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
