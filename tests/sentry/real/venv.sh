# A virtual environment of Python, and pip that installs a wheel into it.
mkdir small
cat >small/__init__.py <<'END'
def main():
    print("small runs")
END
python3 <<'END'
import base64, hashlib, zipfile

info = "small-1.0.dist-info"
files = {
    "small/__init__.py": open("small/__init__.py").read(),
    f"{info}/METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{info}/entry_points.txt": "[console_scripts]\nsmall = small:main\n",
}
with zipfile.ZipFile("small-1.0-py3-none-any.whl", "w") as wheel:
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        wheel.writestr(name, text)
        record += f"{name},sha256={digest},{len(text)}\n"
    wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
END
rm -r small
python3 -m venv environment
. environment/bin/activate
pip install --no-index --no-input ./small-1.0-py3-none-any.whl
small
pip list --format freeze | sed 's/^pip==.*/pip/'
pip uninstall -y small
python -c 'import sys; print(sys.prefix != sys.base_prefix)'
(cd environment && find . -printf '%p %m %s %l %y\n' | grep -v pyc | sort)
