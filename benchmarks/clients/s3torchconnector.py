"""The native client of s3torchconnector: parallel parts inside it, threads of ours across files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client

from benchmarks.target import MiB, Target, files_below

_THREADS = 32


class Client:
    SETTINGS = f"throughput_target_gbps 10, 8 MiB parts (its defaults), {_THREADS} threads across files"
    DURABLE = False

    def __init__(self, target: Target) -> None:
        self._bucket = target.bucket
        self._store = MountpointS3Client(region=target.region, endpoint=target.endpoint, force_path_style=True)

    def save(self, directory: str, prefix: str) -> None:
        def put(path: str, name: str) -> None:
            stream = self._store.put_object(self._bucket, f"{prefix}/{name}")
            with open(path, "rb") as file:
                while piece := file.read(8 * MiB):
                    stream.write(piece)
            stream.close()

        files = files_below(directory)
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(put, [path for path, _, _ in files], [name for _, name, _ in files]))

    def restore(self, prefix: str, directory: str) -> None:
        def get(key: str) -> None:
            with open(f"{directory}/{key[len(prefix) + 1 :]}", "wb") as file:
                file.writelines(self._store.get_object(self._bucket, key))

        keys = [
            entry.key for page in self._store.list_objects(self._bucket, f"{prefix}/") for entry in page.object_info
        ]
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(get, keys))
