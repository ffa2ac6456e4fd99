-- wrk's script: one request again and again, and the outcome as one line of JSON.
-- Arguments: METHOD [BODY_FILE CONTENT_TYPE]

-- There is no function request: wrk then formats the request once, after init.
function init(args)
   wrk.method = args[1]
   if args[2] then
      local file = assert(io.open(args[2], "rb"))
      wrk.body = file:read("*a")
      file:close()
      wrk.headers["Content-Type"] = args[3]
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "seconds": %.6f, "p50": %.6f, "p99": %.6f, "failed": %d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
      errors.status + errors.connect + errors.read + errors.write + errors.timeout
   ))
end
