# node: an HTTP server and its clients, files, children, threads, several processes behind one port.
cat >all.js <<'END'
const http = require('http'), fs = require('fs'), crypto = require('crypto'), zlib = require('zlib'), child = require('child_process');
const { Worker } = require('worker_threads');
const agent = new http.Agent({ keepAlive: true, maxSockets: 10 });
const server = http.createServer((request, response) => {
	if (request.url === '/file')
		return fs.createReadStream('big').pipe(response);
	let size = 0;
	request.on('data', data => size += data.length);
	request.on('end', () => response.end(`${request.method} ${request.url} ${size}\n`));
});
const get = (path, method = 'GET', body) => new Promise((resolve, reject) => {
	const request = http.request({ port: server.address().port, host: '127.0.0.1', path, method, agent }, response => {
		const hash = crypto.createHash('md5');
		response.on('data', data => hash.update(data));
		response.on('end', () => resolve(`${response.statusCode} ${hash.digest('hex')}`));
	});
	request.on('error', reject).end(body);
});
(async () => {
	fs.writeFileSync('big', Buffer.alloc(1 << 20, 'abc'));
	await new Promise(done => server.listen(0, '127.0.0.1', done));
	console.log(await get('/'), await get('/post', 'POST', Buffer.alloc(200000)), await get('/file'));
	console.log(new Set(await Promise.all(Array.from({ length: 300 }, (_, i) => get('/' + i % 10)))).size);
	console.log(zlib.gunzipSync(zlib.gzipSync('x'.repeat(1000))).length);
	console.log(child.execFileSync('/bin/echo', ['child']).toString());
	console.log(await new Promise(done => {
		const shell = child.spawn('sh', ['-c', 'cat; exit 3']);
		let text = '';
		shell.stdout.on('data', data => text += data);
		shell.on('close', status => done(text + status));
		shell.stdin.end('in');
	}));
	console.log(await new Promise(done => {
		const code = 'const { parentPort } = require("worker_threads"); parentPort.on("message", m => parentPort.postMessage(m * 2))';
		const worker = new Worker(code, { eval: true });
		worker.on('message', message => worker.terminate().then(() => done(message)));
		worker.postMessage(21);
	}));
	console.log(await new Promise(done => {
		const watcher = fs.watch('.', (event, name) => { watcher.close(); done(event + name); });
		fs.writeFileSync('watched', 'x');
	}));
	console.log((await fs.promises.readdir('.')).sort().join());
	console.log(await new Promise(done => require('dns').lookup('localhost', 4, (error, address) => done(error || address))));
	process.on('SIGUSR2', () => { console.log('signal'); server.close(); agent.destroy(); });
	process.kill(process.pid, 'SIGUSR2');
})();
END
node all.js
cat >cluster.js <<'END'
const cluster = require('cluster'), http = require('http');
if (cluster.isPrimary) {
	let ready = 0, ended = 0;
	const workers = [cluster.fork(), cluster.fork()];
	cluster.on('message', (worker, port) => {
		if (++ready < 2)
			return;
		let answers = 0;
		for (let i = 0; i < 20; i++)
			http.get({ port, host: '127.0.0.1', agent: false }, response => response.resume().on('end', () => {
				if (++answers == 20)
					workers.map(worker => worker.kill());
			}));
	});
	cluster.on('exit', (worker, code, signal) => ++ended == 2 && console.log('ended', code, signal));
} else {
	const server = http.createServer((request, response) => response.end('x'));
	server.listen(0, '127.0.0.1', () => process.send(server.address().port));
}
END
node cluster.js
node -e 'process.stdin.on("data", data => console.log(`${data}`)).on("end", () => console.log("end"))' <<<text
node -e 'console.log(process.memoryUsage().rss > 1e6, os.cpus().length > 0, os.totalmem() > 1e6, os.userInfo().uid == process.getuid())'
node -e 'process.exitCode = 3; setTimeout(() => { throw new Error("thrown") }, 5)' 2>error
echo "status $? $(grep -c Error error)"
bash -c "ulimit -c 0; node -e 'process.abort()'; exit \$?" 2>error
echo "aborted $?"
