from fasttail import _build_info

print(_build_info.VERSION, _build_info.COMMIT)
