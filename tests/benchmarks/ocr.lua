-- wrk's script: several bodies in turn, endlessly; one line for each answer: its status.
-- Arguments: CONTENT_TYPE BODY_FILE...

local requests = {}
local sent = 0

function init(args)
   wrk.method = "POST"
   wrk.headers["Content-Type"] = args[1]
   for index = 2, #args do
      local file = assert(io.open(args[index], "rb"))
      table.insert(requests, wrk.format(nil, nil, nil, file:read("*a")))
      file:close()
   end
end

function request()
   sent = sent + 1
   return requests[(sent - 1) % #requests + 1]
end

function response(status)
   io.write(status, "\n")
   io.flush()
end
